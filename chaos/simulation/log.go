package simulation

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

func appendNumber(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func number(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// log is raft's log on a disk: the backend of package logstore.
type log struct {
	*disk
	// wrote is told of every entry that is stored.
	wrote func(*raft.Log)
}

// FirstIndex implements raft.LogStore.
func (l log) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.first, nil
}

// LastIndex implements raft.LogStore.
func (l log) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.last(), nil
}

func (e *entries) last() uint64 {
	if e.first == 0 {
		return 0
	}
	return e.first + uint64(len(e.all)) - 1
}

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps.
func (l log) IsMonotonic() bool { return true }

// GetLog implements raft.LogStore.
func (l log) GetLog(index uint64, into *raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log.first == 0 || index < l.log.first || index > l.log.last() {
		return raft.ErrLogNotFound
	}
	e := l.log.all[index-l.log.first]
	e.Data, e.Extensions = slices.Clone(e.Data), slices.Clone(e.Extensions)
	*into = e
	return nil
}

// StoreLog implements raft.LogStore.
func (l log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore: the entries are synced when it returns.
func (l log) StoreLogs(all []*raft.Log) error {
	l.mu.Lock()
	failing := l.trouble.failing
	var kept int
	for _, e := range all {
		if failing != nil && kept == len(all)/2 {
			break // the rest was never written
		}
		if next := l.log.last() + 1; l.log.first != 0 && e.Index != next {
			l.mu.Unlock()
			return fmt.Errorf("entry %d does not follow entry %d", e.Index, next-1)
		}
		if l.log.first == 0 {
			l.log.first = e.Index
		}
		c := *e
		c.Data, c.Extensions = slices.Clone(e.Data), slices.Clone(e.Extensions)
		l.log.all = append(l.log.all, c)
		kept++
	}
	l.mu.Unlock()
	l.write()
	if failing != nil {
		failing.bite()
		return errDisk
	}
	for _, e := range all {
		l.wrote(e)
	}
	if l.liar && !l.dice.happens(0.05) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.synced = len(l.log.all)
	return nil
}

// DeleteRange implements raft.LogStore: from the beginning, or to the end.
func (l log) DeleteRange(low, high uint64) error {
	l.write()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.log
	if e.first == 0 {
		return nil
	}
	first, last := e.first, e.last()
	switch {
	case low <= first && high >= last:
		*e = entries{mark: e.mark}
		return nil
	case low <= first:
		n := int(high - first + 1)
		e.all, e.first = slices.Clone(e.all[n:]), high+1
		e.synced = max(0, e.synced-n)
	default:
		e.all = e.all[:low-first]
		e.synced = min(e.synced, len(e.all))
	}
	return nil
}

// spoil flips a bit in an entry, if there is one, and reports whether it did.
func (d *disk) spoil() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.log.all) == 0 {
		return false
	}
	e := &d.log.all[d.dice.n(len(d.log.all))]
	if len(e.Data) == 0 {
		return false
	}
	e.Data = slices.Clone(e.Data)
	e.Data[d.dice.n(len(e.Data))] ^= 1 << d.dice.n(8)
	return true
}
