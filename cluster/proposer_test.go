package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// gathering is a proposer between two entries: answered commands of the last
// one, which took 20 ms, are on their way to their callers, and waiting ones
// are there for the next.
func gathering(answered, waiting int) *proposer {
	p := &proposer{open: true, wake: make(chan struct{}, 1), patience: time.NewTimer(time.Hour)}
	p.underway = &entry{}
	for range waiting {
		p.propose(proposal{})
	}
	select {
	case <-p.wake:
	default:
	}
	p.end(p.underway)
	p.gather(answered, 20*time.Millisecond)
	return p
}

func TestTheNextEntryWaitsForThreeInFive(t *testing.T) {
	for _, c := range []struct{ answered, waiting, more int }{
		{answered: 1, waiting: 0, more: 0}, // the only caller waits for nobody
		{answered: 1, waiting: 1, more: 0},
		{answered: 2, waiting: 0, more: 1},
		{answered: 3, waiting: 3, more: 0},
		{answered: 10, waiting: 0, more: 6},
		{answered: 10, waiting: 10, more: 2},
		{answered: 0, waiting: 10, more: 0},
	} {
		p := gathering(c.answered, c.waiting)
		for i := range c.more {
			if p.take() != nil {
				t.Fatalf("%+v: sent after %d more", c, i)
			}
			p.propose(proposal{})
		}
		woken := len(p.wake) == 1
		if e := p.take(); c.waiting+c.more > 0 && (e == nil || len(e.batch) != c.waiting+c.more) {
			t.Errorf("%+v: entry %v", c, e)
		}
		if c.more > 0 && !woken {
			t.Errorf("%+v: nobody was told that enough wait", c)
		}
	}
}

func TestTheNextEntryWaitsForNoLongerThanHalfTheLastOneAndFiveMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := gathering(10, 3)
		begun := time.Now()
		<-p.patience.C
		if waited := time.Since(begun); waited != maxGathering {
			t.Errorf("waited for %v after an entry that took 20 ms, want %v", waited, maxGathering)
		}
		p.gather(10, 4*time.Millisecond)
		begun = time.Now()
		<-p.patience.C
		if waited := time.Since(begun); waited != 2*time.Millisecond {
			t.Errorf("waited for %v after an entry that took 4 ms", waited)
		}
		p.waitNoMore()
		if e := p.take(); e == nil || len(e.batch) != 3 {
			t.Errorf("entry %v, want one of 3", e)
		}
	})
}

func TestCommandsOfTooManyBytesDoNotWait(t *testing.T) {
	p := gathering(0, 0)
	const half = maxWaiting / 2
	bytes := make([]byte, half) // of all commands: nobody writes to them
	queue := func(size int) (refused bool) {
		p.propose(proposal{command: bytes[:size], done: func(r result) { refused = r.verdict == notApplied }})
		return refused
	}
	if queue(half) || queue(half-1) || queue(half) {
		t.Fatal("a command was refused before the bound was reached")
	}
	if !queue(1) {
		t.Error("a command was taken behind as many bytes as may wait")
	}
	p.take()
	if queue(1) {
		t.Error("a command was refused after an entry had been made of others")
	}
}
