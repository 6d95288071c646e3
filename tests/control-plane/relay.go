package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// runRelay copies connections between a port of this machine's loopback interface and an address in another network namespace. It is
// the way by which a user's kubectl reaches an API server inside.
func runRelay(arguments []string) error {
	flags := flag.NewFlagSet("relay", flag.ExitOnError)
	portFile := flags.String("port-file", "", "where to write the number of the port that was chosen")
	netns := flags.String("netns", "", "the network namespace of the target")
	target := flags.String("target", "", "the address to connect to, there")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := os.WriteFile(*portFile, []byte(fmt.Sprintln(port)), 0o644); err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			server, err := dialIn(*netns, *target)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(client, server)
		}()
	}
}

// dialIn connects from within a network namespace. A socket stays in the namespace of the thread that made it; the thread is not used
// again, so it is never unlocked.
func dialIn(netns, target string) (net.Conn, error) {
	type result struct {
		connection net.Conn
		err        error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread()
		file, err := os.Open(netns)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			file.Close()
		}
		if err != nil {
			results <- result{nil, fmt.Errorf("enter %s: %w", netns, err)}
			return
		}
		connection, err := net.Dial("tcp", target)
		results <- result{connection, err}
	}()
	r := <-results
	return r.connection, r.err
}
