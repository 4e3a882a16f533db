package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func init() { programs["lingers"] = linger }

// linger listens on os.Args[3] until it is told to end. Then its first thread
// ends at once, and the process, as one that waits for its disk, a second
// later.
func linger() {
	l, err := net.Listen("tcp", os.Args[3])
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	fmt.Println("listening")
	<-told
	go endFirstThread()
	time.Sleep(time.Second)
}

// endFirstThread ends the thread that has the id of the process: this
// goroutine's, or that of one that it starts.
func endFirstThread() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	}
	go endFirstThread()
	select {} // keeps its thread from the others
}
