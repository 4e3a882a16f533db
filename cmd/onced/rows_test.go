package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// rowFiles are the files of generations that node i has.
func (c *processes) rowFiles(i int) (paths []string) {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.nodes[i].dir, "state", "store-*", "*.rows"))
	if err != nil {
		c.t.Fatal(err)
	}
	return paths
}

// withRowFiles starts n nodes and creates keys until each has files of generations, of which
// the first is in use: the second is begun after that.
func withRowFiles(t *testing.T, n int) (*processes, kept) {
	t.Helper()
	c := newProcesses(t, n)
	c.binary = smallGenerations
	var nodes []int
	for i := range n {
		c.start(i)
		nodes = append(nodes, i)
	}
	c.awaitReady()
	k := c.createSome(100, 300, nodes...)
	later := 0
	for i := range n {
		c.eventually(c.nodes[i].id+" to have files of generations", func() bool {
			later++
			c.mustCreate(i, fmt.Sprint("later-", later), `1`)
			return len(c.rowFiles(i)) > 1
		})
	}
	return c, k
}

func TestAFlippedBitInARowFileIsNeverServed(t *testing.T) {
	t.Parallel()
	c, k := withRowFiles(t, 3)
	c.agree()
	victim := c.others(c.leader())[0]
	if status := c.terminate(victim); status != 0 { // which writes out what is in memory
		t.Fatalf("exit status %d", status)
	}
	k.flip(t, slices.Collect(maps.Keys(k)), c.nodes[victim].dir, "state", "store-*", "*.rows")
	said := c.startAgain(victim)
	c.eventually("the node to meet the damage and end", func() bool {
		for key := range k {
			if wrong := k.wrong(c, victim, key); wrong != "" {
				t.Fatal(wrong)
			}
		}
		return !c.nodes[victim].up()
	})
	c.stopsWith(victim, said, "the checksum of a block differs")
	k.stand(c, c.others(victim)...)
	c.mustCreate(c.leader(), "afterwards", `1`)
}

func TestADamagedRowFileIsRefusedInOneLine(t *testing.T) {
	t.Parallel()
	origin, _ := withRowFiles(t, 1)
	if status := origin.terminate(0); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	first := slices.Min(origin.rowFiles(0))
	for name, tc := range map[string]struct {
		damage func(path string) error
		want   string
	}{
		"cut short": {func(path string) error { return os.Truncate(path, 500) }, "data is corrupt"},
		"emptied":   {func(path string) error { return os.Truncate(path, 0) }, "it is too short"},
		"deleted":   {os.Remove, "no such file"},
		"another": {func(path string) error {
			data, err := os.ReadFile(slices.Max(origin.rowFiles(0)))
			if err != nil {
				return err
			}
			return os.WriteFile(path, data, 0o600)
		}, "not the file of its generation"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newProcesses(t, 1)
			c.binary = smallGenerations
			p := c.nodes[0]
			p.raft = origin.nodes[0].raft
			if err := os.CopyFS(p.dir, os.DirFS(origin.nodes[0].dir)); err != nil {
				t.Fatal(err)
			}
			within, err := filepath.Rel(origin.nodes[0].dir, first)
			if err == nil {
				err = tc.damage(filepath.Join(p.dir, within))
			}
			if err != nil {
				t.Fatal(err)
			}
			c.stopsWith(0, c.startAgain(0), tc.want)
		})
	}
}

func TestNodesWithRowFilesAreAllKilled(t *testing.T) {
	t.Parallel()
	c, k := withRowFiles(t, 3)
	for i := range c.nodes {
		c.kill(i)
	}
	for i := range c.nodes {
		c.start(i)
	}
	c.awaitReady()
	k.stand(c, 0, 1, 2)
	c.agree()
}
