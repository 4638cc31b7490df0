// Command pause holds namespaces open and reaps what is orphaned in them. It is
// the one program of the sandbox image, and PID 1 of an embedded cluster.
//
// As `pause` it waits for SIGINT or SIGTERM. As `pause hold` it also ends when
// its standard input closes, so that a cluster goes with the process that
// started it, whatever way that process dies; the byte `d` on standard input
// detaches it: from then on it waits for the signal alone.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

// reap collects every orphan that has ended.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// hold ends the process when standard input closes before the byte `d`.
func hold() {
	order := make([]byte, 1)
	count, _ := os.Stdin.Read(order)
	if count == 1 && order[0] == 'd' {
		return
	}
	os.Exit(0)
}

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		go hold()
	}
	reap()
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		reap()
	}
}
