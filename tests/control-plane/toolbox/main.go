// Command toolbox makes load inside a pod and counts what fails: new TCP connections, UDP echoes and DNS questions, one after another
// and without a retry, so that each one that is lost counts. It runs until it is told to stop (SIGTERM, or its standard input ends) and
// prints what it saw as one line of JSON for each kind of load. When nobody tells it in time it ends with an error.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// report is what a kind of load saw.
type report struct {
	// Kind of load and its target, such as "tcp 10.96.3.4:80".
	Load string `json:"load"`
	// How many were tried, and how many of them failed.
	Attempts int `json:"attempts"`
	Failures int `json:"failures"`
	// The longest time between two successes, in milliseconds.
	LongestGap int64 `json:"longest_gap_ms"`
	// The first failures: when, and what happened.
	First []string `json:"first_failures"`
}

const (
	// Nothing is tried twice, so that a lost datagram fails however long this is; it has room for a machine that is busy.
	patience      = 5 * time.Second
	failuresShown = 10
)

func main() {
	tcp := flag.String("tcp", "", "connect to this address and read a line of HTTP")
	kept := flag.String("kept", "", "ask again and again over one connection to this address, which speaks HTTP; that it ends is a failure")
	udp := flag.String("udp", "", "send a datagram to this address (agnhost's netexec answers) from a new port")
	dns := flag.String("dns", "", "ask these DNS servers over UDP: addresses with ports, with commas between them")
	dnsTCP := flag.String("dns-tcp", "", "ask these DNS servers over TCP")
	question := flag.String("name", "kubernetes.default.svc.cluster.local.", "the name to ask for")
	pause := flag.Duration("pause", 10*time.Millisecond, "time between two attempts of one kind")
	limit := flag.Duration("for", 10*time.Minute, "end with an error when nobody has ended it after this time")
	once := flag.String("once", "", "no load: send one datagram to this address and print the answer")
	flag.Parse()
	if *once != "" {
		answer, err := echo(*once)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(answer)
		return
	}

	stop := make(chan struct{})
	var late atomic.Bool
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
		ended := make(chan struct{})
		go func() {
			// kubectl exec -i closes our input when its own ends.
			_, _ = os.Stdin.Read(make([]byte, 1))
			close(ended)
		}()
		select {
		case <-signals:
		case <-ended:
		case <-time.After(*limit):
			late.Store(true)
		}
		close(stop)
	}()

	var all sync.WaitGroup
	var printing sync.Mutex
	run := func(kind, targets string, attempt func(string) error) {
		for target := range strings.SplitSeq(targets, ",") {
			if target == "" {
				continue
			}
			all.Go(func() {
				seen := repeat(kind+" "+target, *pause, stop, func() error { return attempt(target) })
				printing.Lock()
				defer printing.Unlock()
				_ = json.NewEncoder(os.Stdout).Encode(seen)
			})
		}
	}
	run("tcp", *tcp, connect)
	for target := range strings.SplitSeq(*kept, ",") {
		run("kept", target, new(connection).ask)
	}
	run("udp", *udp, func(target string) error {
		_, err := echo(target)
		return err
	})
	run("dns", *dns, func(server string) error { return ask("udp", server, *question) })
	run("dns-tcp", *dnsTCP, func(server string) error { return ask("tcp", server, *question) })
	fmt.Fprintln(os.Stderr, "load begins")
	all.Wait()
	if late.Load() {
		fmt.Fprintf(os.Stderr, "the load has ended after %v, before it was told to\n", *limit)
		os.Exit(1)
	}
}

func repeat(load string, pause time.Duration, stop <-chan struct{}, attempt func() error) report {
	seen := report{Load: load, First: []string{}}
	lastSuccess := time.Now()
	for {
		select {
		case <-stop:
			return seen
		case <-time.After(pause):
		}
		began := time.Now()
		seen.Attempts++
		err := attempt()
		if err != nil {
			seen.Failures++
			if len(seen.First) < failuresShown {
				seen.First = append(seen.First, fmt.Sprintf("%s: %v", began.UTC().Format("15:04:05.000"), err))
			}
			continue
		}
		gap := time.Since(lastSuccess).Milliseconds()
		seen.LongestGap = max(seen.LongestGap, gap)
		lastSuccess = time.Now()
	}
}
