package main

import (
	"os"
	"testing"
	"time"
)

func TestProcessStatIsRead(t *testing.T) {
	tests := []struct {
		name, stat string
		want       time.Duration
		fails      bool
	}{
		{"plain", "42 (onced) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 7 8 20 0", 1750 * time.Millisecond, false},
		{"name with parenthesis and spaces", "42 (on) ced) S 1) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 7 8", 1750 * time.Millisecond, false},
		{"cut off", "42 (onced) S 1 42 42 0 -1 4194560 1 2 3 4 150", 0, true},
		{"no number", "42 (onced) S 1 42 42 0 -1 4194560 1 2 3 4 150 x 7 8", 0, true},
		{"empty", "", 0, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseProcessStat([]byte(test.stat))
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("read %s, error %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestMachineStatIsRead(t *testing.T) {
	got, err := parseMachineStat([]byte("cpu  100 20 30 9999 8888 4 5 6 77 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
	if want := 165 * tick; err != nil || got != want {
		t.Errorf("read %s, error %v; want %s", got, err, want)
	}
	for _, stat := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"} {
		if _, err := parseMachineStat([]byte(stat)); err == nil {
			t.Errorf("%q: no error", stat)
		}
	}
}

func TestUsageBetweenTwoMoments(t *testing.T) {
	at := func(seconds ...time.Duration) usage {
		for i := range seconds {
			seconds[i] *= time.Second
		}
		return usage{at: seconds[0], client: &seconds[1], servers: &seconds[2], machine: &seconds[3]}
	}
	spent := at(18, 3, 12, 40).since(at(10, 1, 4, 20))
	if spent.at != 8*time.Second || *spent.client != 2*time.Second || *spent.servers != 8*time.Second || *spent.machine != 20*time.Second {
		t.Errorf("spent %+v", spent)
	}
	if spent.otherBusy() == nil {
		t.Error("the others' share is unknown although everything is known")
	}
	gone := at(18, 3, 12, 40)
	gone.servers = nil
	if spent := gone.since(at(10, 1, 4, 20)); spent.servers != nil || spent.otherBusy() != nil {
		t.Errorf("a server that is gone: spent %+v", spent)
	}
}

func TestOwnUsageIsRead(t *testing.T) {
	u := readUsage(time.Now(), []int{os.Getpid()})
	if u.client == nil || u.servers == nil || u.machine == nil {
		t.Errorf("read %+v; want all of it", u)
	}
}

func TestMissingProcessIsReported(t *testing.T) {
	const missing = 1 << 30 // beyond Linux's largest process id
	if err := checkProcesses([]int{os.Getpid(), missing}); err == nil {
		t.Error("no error")
	}
	if u := readUsage(time.Now(), []int{os.Getpid(), missing}); u.servers != nil {
		t.Errorf("servers used %s; want unknown", *u.servers)
	}
}
