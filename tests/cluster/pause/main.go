// Command pause holds namespaces open and reaps what is orphaned in them. It is
// the one program of the sandbox image, and PID 1 of an embedded cluster.
//
// As `pause` it waits for SIGINT or SIGTERM. As `pause hold` it also ends when
// its standard input closes, so that a cluster goes with the process that
// started it, whatever way that process dies; the byte `d` on standard input
// detaches it: from then on it waits for the signal alone.
//
// As `pause volumes DIR` it lets everybody write into the directories that
// appear in DIR, the volumes of the controller manager's host path provisioner,
// which makes them root's alone; other provisioners do the same.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
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

// openVolumes gives everybody the directories of a directory, old and new.
func openVolumes(directory string) error {
	notifier, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := syscall.InotifyAddWatch(notifier, directory, syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_ONLYDIR); err != nil {
		return err
	}
	present, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	for _, entry := range present {
		openVolume(directory, entry.Name())
	}
	buffer := make([]byte, 64*1024)
	for {
		count, err := syscall.Read(notifier, buffer)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for at := 0; at+syscall.SizeofInotifyEvent <= count; {
			event := (*syscall.InotifyEvent)(unsafe.Pointer(&buffer[at]))
			begin := at + syscall.SizeofInotifyEvent
			at = begin + int(event.Len)
			openVolume(directory, strings.TrimRight(string(buffer[begin:at]), "\x00"))
		}
	}
}

func openVolume(directory, name string) {
	// It may be gone again: a volume that is deleted needs nothing.
	if err := os.Chmod(filepath.Join(directory, name), 0o777); err == nil {
		fmt.Println("opened", name)
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "volumes" {
		fmt.Println(openVolumes(os.Args[2]))
		os.Exit(1)
	}
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
