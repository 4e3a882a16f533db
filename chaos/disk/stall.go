//go:build linux

package disk

import (
	"fmt"
	"sync"
	"time"
)

// Stall is a disk that hangs, all the time or again and again.
type Stall struct {
	dir  string
	stop chan struct{}
	once sync.Once
	done chan struct{} // closed when the disk is as it was

	// Written before done is closed.
	held time.Duration
	err  error
}

// Freeze makes every write to the disk wait, until End or for atMost, whichever
// comes first. A process that waits for one cannot even be killed.
func (d *Disk) Freeze(atMost time.Duration) (*Stall, error) {
	return d.stall(atMost, 0, atMost)
}

// Slow makes the disk hang for frozen out of each frozen+open, until End or for
// atMost.
func (d *Disk) Slow(frozen, open, atMost time.Duration) (*Stall, error) {
	return d.stall(frozen, open, atMost)
}

func (d *Disk) stall(frozen, open, atMost time.Duration) (*Stall, error) {
	s := &Stall{dir: d.Dir, stop: make(chan struct{}), done: make(chan struct{})}
	begun := time.Now()
	if err := s.freeze(); err != nil {
		return nil, err
	}
	go s.run(begun, frozen, open, atMost)
	return s, nil
}

// run owns a disk that is frozen, and thaws it before it ends.
func (s *Stall) run(frozenAt time.Time, frozen, open, atMost time.Duration) {
	defer close(s.done)
	end := time.NewTimer(atMost)
	defer end.Stop()
	for ended := false; !ended; {
		ended = s.wait(frozen, end.C)
		if s.err = s.thaw(); s.err != nil {
			return
		}
		s.held += time.Since(frozenAt)
		if ended = ended || s.wait(open, end.C); ended {
			return
		}
		frozenAt = time.Now()
		if s.err = s.freeze(); s.err != nil {
			return
		}
	}
}

// wait reports whether the stall is to end, within d.
func (s *Stall) wait(d time.Duration, end <-chan time.Time) bool {
	select {
	case <-time.After(d):
		return false
	case <-end:
		return true
	case <-s.stop:
		return true
	}
}

func (s *Stall) freeze() error {
	if err := control(s.dir, freezeIoctl, 0); err != nil {
		return fmt.Errorf("freeze %s: %w", s.dir, err)
	}
	return nil
}

func (s *Stall) thaw() error {
	if err := control(s.dir, thawIoctl, 0); err != nil {
		return fmt.Errorf("thaw %s: %w", s.dir, err)
	}
	return nil
}

// End lets the disk go on, if it does not yet, and returns for how long it has
// hung in all. It may be called again.
func (s *Stall) End() (held time.Duration, err error) {
	s.once.Do(func() { close(s.stop) })
	<-s.done
	return s.held, s.err
}
