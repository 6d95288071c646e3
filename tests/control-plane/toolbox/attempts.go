package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// lostSYN is less than the kernel waits before it sends a connection's first packet again.
const lostSYN = 900 * time.Millisecond

// connect opens a new connection and reads the first line of an HTTP answer.
func connect(target string) error {
	began := time.Now()
	connection, err := net.DialTimeout("tcp", target, patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	// A first packet that was lost costs a second. One that meets the rest of an older connection with the same addresses and ports (a node's
	// own, to a pod that its kubelet probes as well) clears that away and is sent again at once: nothing was lost.
	if time.Since(began) > lostSYN {
		if err := sentAgainAtMost(0, connection.(*net.TCPConn)); err != nil {
			return err
		}
	}
	_ = connection.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(connection, "GET /hostname HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	if _, err = bufio.NewReader(connection).ReadString('\n'); err != nil {
		return err
	}
	// The kernel probes for a lost tail after a few milliseconds without an acknowledgement, which a busy machine may need.
	return sentAgainAtMost(1, connection.(*net.TCPConn))
}

// connection is one that goes on for as long as nobody ends it.
type connection struct {
	open   net.Conn
	reader *bufio.Reader
}

// ask sends one request over it and reads the answer. One that has ended is a failure; the next request opens another one.
func (kept *connection) ask(target string) (err error) {
	if kept.open == nil {
		if kept.open, err = net.DialTimeout("tcp", target, patience); err != nil {
			return err
		}
		kept.reader = bufio.NewReader(kept.open)
	}
	defer func() {
		if err != nil {
			_ = kept.open.Close()
			kept.open = nil
		}
	}()
	_ = kept.open.SetDeadline(time.Now().Add(patience))
	if _, err = io.WriteString(kept.open, "GET /hostname HTTP/1.1\r\nHost: kept\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(kept.reader, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// sentAgainAtMost tells a connection of which packets were lost from one that was slow because the machine is.
func sentAgainAtMost(limit uint32, connection *net.TCPConn) error {
	raw, err := connection.SyscallConn()
	if err != nil {
		return err
	}
	var info *unix.TCPInfo
	controlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	switch {
	case controlErr != nil:
		return controlErr
	case err != nil:
		return err
	case info.Total_retrans > limit:
		return fmt.Errorf("%d packets were lost and sent again", info.Total_retrans)
	}
	return nil
}

// echo sends one datagram from a new socket and waits for the answer, which it returns.
func echo(target string) (string, error) {
	connection, err := net.Dial("udp", target)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	if _, err := connection.Write([]byte("hostname")); err != nil {
		return "", err
	}
	answer := make([]byte, 512)
	length, err := connection.Read(answer)
	return string(answer[:length]), err
}

// ask asks one question over a new socket, and wants an answer without error to exactly this question.
func ask(network, server, name string) error {
	id := uint16(rand.Uint32())
	question, err := packQuestion(id, name)
	if err != nil {
		return err
	}
	connection, err := net.DialTimeout(network, server, patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	answer := make([]byte, 4096)
	if network == "tcp" {
		question = append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	}
	if _, err := connection.Write(question); err != nil {
		return err
	}
	if network == "tcp" {
		if _, err := io.ReadFull(connection, answer[:2]); err != nil {
			return err
		}
		answer = answer[:binary.BigEndian.Uint16(answer)]
		_, err = io.ReadFull(connection, answer)
	} else {
		var length int
		length, err = connection.Read(answer)
		answer = answer[:length]
	}
	if err != nil {
		return err
	}
	return judge(answer, id)
}

func packQuestion(id uint16, name string) ([]byte, error) {
	parsed, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: parsed, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return message.Pack()
}

func judge(answer []byte, id uint16) error {
	var message dnsmessage.Message
	if err := message.Unpack(answer); err != nil {
		return err
	}
	switch {
	case message.ID != id:
		return errors.New("an answer to another question")
	case message.RCode != dnsmessage.RCodeSuccess:
		return fmt.Errorf("answered with %v", message.RCode)
	case len(message.Answers) == 0:
		return errors.New("an empty answer")
	}
	return nil
}
