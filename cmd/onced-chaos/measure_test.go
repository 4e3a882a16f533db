//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func oncedFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "onced")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/onced/onced/cmd/onced").CombinedOutput(); err != nil {
		t.Fatalf("build onced: %v\n%s", err, out)
	}
	return path
}

// figures makes a measurement and decodes what it prints.
func figures(t *testing.T, into any, args ...string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), append([]string{"measure"}, args...), &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		t.Fatalf("%v:\n%s", err, &stdout)
	}
}

// Not one of these tells what the figures have to be: they are the machine's.
func TestEachMeasurementIsMade(t *testing.T) {
	at := []string{"--json", "--loopback", "--onced", oncedFile(t)}
	t.Run("failover", func(t *testing.T) {
		var got struct {
			Election string `json:"election_timeout"`
			Faults   []struct {
				Kind  string
				Calls int
				Gap   struct{ Times int } `json:"time_without_success"`
			}
		}
		figures(t, &got, append([]string{"failover", "--tries", "1"}, at...)...)
		if len(got.Faults) != 2 || got.Faults[0].Kind != "kill-leader" || got.Faults[1].Gap.Times != 1 || got.Faults[1].Calls == 0 || got.Election == "" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("rolling", func(t *testing.T) {
		var got struct {
			Restarts int
			Others   struct{ Calls int } `json:"clients_of_other_nodes"`
			Balanced struct{ Calls int } `json:"balanced_clients"`
		}
		figures(t, &got, append([]string{"rolling", "--rounds", "1"}, at...)...)
		if got.Restarts != 3 || got.Others.Calls == 0 || got.Balanced.Calls == 0 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("recovery", func(t *testing.T) {
		var got struct {
			Sizes []struct {
				Keys  int
				First struct{ Times int } `json:"until_first_answer"`
			}
		}
		figures(t, &got, append([]string{"recovery", "--keys", "20,40", "--tries", "1"}, at...)...)
		if len(got.Sizes) != 2 || got.Sizes[1].Keys != 40 || got.Sizes[0].First.Times != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestPowerCutsAreJudgedByTheirControl(t *testing.T) {
	if os.Geteuid() != 0 { // who has no disks whose power can be cut, and is told so
		out, status := called(t.Context(), "measure", "power-cuts")
		if status != exitInconclusive || !strings.Contains(out, "as root") {
			t.Errorf("its exit status is %d, or it does not say who can:\n%s", status, out)
		}
		return
	}
	var got struct {
		Synced  struct{ Cuts, Lost, Acknowledged int }
		Control struct{ Lost int } `json:"not_synced"`
	}
	figures(t, &got, "power-cuts", "--json", "--cuts", "2", "--control-cuts", "1", "--onced", oncedFile(t))
	if got.Synced.Cuts != 2 || got.Synced.Acknowledged == 0 || got.Synced.Lost != 0 || got.Control.Lost == 0 {
		t.Errorf("%+v", got)
	}
}

func TestAMeasurementThatCannotBeMadeIsRefused(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"failover --tries 0", "--tries is at least 1"},
		{"rolling --rounds 0", "--rounds is at least 1"},
		{"recovery --keys 10,0", "--keys and --tries are at least 1"},
		{"power-cuts --cuts 0", "--cuts and --control-cuts are at least 1"},
		{"power-cuts --loopback", "disks of their own"},
		{"failover --raft-profile moon", "--raft-profile must be one of"},
		{"failover --loopback --onced nothing", "nothing"},
	} {
		out, status := called(t.Context(), append([]string{"measure"}, strings.Fields(test.args)...)...)
		if status != exitInconclusive || !strings.Contains(out, test.says) {
			t.Errorf("%s: its exit status is %d, or it does not say %q:\n%s", test.args, status, test.says, out)
		}
	}
}
