package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/onced/onced/cmd/internal/timers"
)

func init() { programs["timerslack"] = printTimerSlack }

// printTimerSlack does what serve does first, and prints what comes of it.
func printTimerSlack() {
	err := timers.Coarsen(context.Background())
	slack, errRead := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	fmt.Println(slack, os.Args[1:], err, errRead)
}
