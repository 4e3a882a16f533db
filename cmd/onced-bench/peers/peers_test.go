package peers

import (
	"context"
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
