package peers

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// counted is a connection that knows how often it was closed.
type counted struct {
	Conn
	closed int
}

func (c *counted) Close() { c.closed++ }

func TestSharedConnectionsTakeTurnsAndStayOpen(t *testing.T) {
	opened := map[int][]*counted{}
	s := &System{nodes: make([]*server, 2)}
	s.connect = func(_ context.Context, node int) (Conn, error) {
		c := new(counted)
		opened[node] = append(opened[node], c)
		return c, nil
	}
	s.Share(2)
	var given []Conn
	for range 5 {
		c, err := s.Connect(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, c)
		c.Close()
	}
	if len(opened[0]) != 0 || len(opened[1]) != 2 {
		t.Fatalf("%d and %d connections were opened; want 0 and 2", len(opened[0]), len(opened[1]))
	}
	if given[0] != given[2] || given[0] == given[1] || opened[1][0].closed+opened[1][1].closed != 0 {
		t.Error("they do not take turns, or were closed by a user")
	}
	s.nodes = nil // there are no servers to stop
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if opened[1][0].closed != 1 || opened[1][1].closed != 1 {
		t.Error("the end of the system did not close each once")
	}
}

func TestVersionIsTheFirstLineThatAProgramSays(t *testing.T) {
	for name, test := range map[string]struct {
		script, want string
		fails        bool
	}{
		"two lines":          {"#!/bin/sh\necho server $1 1.2\necho built today\n", "server --version 1.2", false},
		"nothing":            {"#!/bin/sh\n", "", false},
		"it does not say so": {"#!/bin/sh\necho usage\nexit 2\n", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "server")
			if err := os.WriteFile(program, []byte(test.script), 0o700); err != nil {
				t.Fatal(err)
			}
			if got, err := Version(t.Context(), program); got != test.want || (err != nil) != test.fails {
				t.Errorf("%q, error %v", got, err)
			}
		})
	}
}
