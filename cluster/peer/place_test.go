package peer

import (
	"context"
	"errors"
	"testing"
)

func TestDirectoryOfAnotherClusterIsToldAmongThoseOfOne(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2", "n3")
	s.wantFormed("n1", "n2", "n3")
	n1 := s.nodes["n1"]
	old := n1.path
	// The same machines in a new cluster, and then one of them with what it had
	// in the old one.
	for _, n := range s.nodes {
		n.wipe()
	}
	s.wantFormed("n1", "n2", "n3")
	n1.stop()
	n1.path = old
	n1.start()
	wantError(t, n1.t.CheckPlace(n1.ctx()), "of another cluster", "n1 to cluster", "--data-dir")
	for _, id := range []string{"n2", "n3"} {
		if err := s.nodes[id].t.CheckPlace(n1.ctx()); err != nil {
			t.Errorf("%s, which is in its place: %v", id, err)
		}
	}
}

func TestMisplacedIsWhomMostOfItsRosterDisowns(t *testing.T) {
	other := &Refusal{Code: CodeOtherCluster, Reason: "of another cluster"}
	down := errors.New("connection refused")
	for _, tt := range []struct {
		name    string
		answers []error
		want    bool
	}{
		{"both others of another cluster", []error{other, other}, true},
		{"one of another, one down", []error{other, down}, false},
		{"one that knows it by another directory", []error{other, &Refusal{Code: CodeReplaced}}, false},
		{"both down", []error{down, down}, false},
	} {
		if err := misplaced(formedLocal(), tt.answers); (err != nil) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestLookForOnesPlaceEndsWithItsContext(t *testing.T) {
	s := newSite(t, "n1", "n2", "n3")
	s.start("n1", "n2", "n3")
	s.wantFormed("n1", "n2", "n3")
	s.nodes["n2"].stop()
	s.nodes["n3"].stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.nodes["n1"].t.CheckPlace(ctx); err != nil {
		t.Error(err)
	}
}
