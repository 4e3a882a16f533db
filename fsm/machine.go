package fsm

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// FeatureLevel is the highest feature level that this binary supports.
const FeatureLevel uint32 = 1

// maxTime is the end of the year 9999, the last that RFC 3339 can write.
// Cluster time stands still there, so that adding a ttl cannot overflow.
const maxTime = 253402300799999

// Machine is the replicated state of onced: what the log says, in a Store.
//
// One goroutine at a time may call Apply; everything else may be called by any
// number of goroutines beside it.
type Machine struct {
	store Store
	// meta is what was last committed. It is replaced, never changed.
	meta atomic.Pointer[Meta]
	// Used by Apply alone, to save allocations.
	scratch scratch
	// sweptTo is a key of the due index before which there is none; nil is the
	// first. A sweep begins there and not among the remains of all that earlier
	// sweeps deleted, of the same millisecond too. What it points to is replaced,
	// never changed.
	sweptTo atomic.Pointer[[]byte]
	// lookedTo is another such key, which Due has found, or nil: nothing is put into the
	// due index that is due before Meta.Time.
	lookedTo atomic.Pointer[[]byte]
}

// LogEntry is one entry of the raft log. Exactly one of Data (see EncodeEntry)
// and Configuration (raft's own encoding of its membership) is set.
type LogEntry struct {
	Index, Term   uint64
	Data          []byte
	Configuration []byte
}

// Applied is what came of a call of Apply.
type Applied struct {
	// Outcomes has, for each entry, the outcome of each of its commands. It
	// is nil for an entry that had been applied before, and for a
	// configuration.
	Outcomes [][]*Outcome
	// Changed names the keys whose record left the state claimed, or ended.
	// A key may be in it more than once.
	Changed []Key
}

// Key is a key in its namespace.
type Key struct{ Namespace, Key string }

// Open returns the machine whose state is in store. An empty store is the
// state before the first entry.
func Open(store Store) (*Machine, error) {
	m := &Machine{store: store}
	meta := new(Meta)
	value, err := store.Get(metaKey)
	if err != nil {
		return nil, fmt.Errorf("open machine: %w", err)
	}
	if value == nil {
		err = checkEmpty(store)
	} else {
		err = openValue(metaKey, value, meta)
	}
	if err != nil {
		return nil, fmt.Errorf("open machine: %w", err)
	}
	if meta.FeatureLevel > FeatureLevel {
		return nil, fmt.Errorf("open machine: the cluster has feature level %d, this binary only %d", meta.FeatureLevel, FeatureLevel)
	}
	m.meta.Store(meta)
	return m, nil
}

// checkEmpty tells a new store from one that has lost its Meta.
func checkEmpty(store Store) error {
	var first []byte
	err := store.Scan(nil, nil, func(key, _ []byte) bool {
		first = slices.Clone(key)
		return false
	})
	if err == nil && first != nil {
		err = corrupt(first, "there is no meta beside it")
	}
	return err
}

// Meta returns a copy of the state that belongs to no key, as last committed.
func (m *Machine) Meta() *Meta { return m.meta.Load().clone() }

// Reached returns index and term of the last entry that is contained in the
// state, raft's own among them where a snapshot was taken behind them.
func (m *Machine) Reached() (index, term uint64) {
	meta := m.meta.Load()
	return meta.AppliedIndex, meta.AppliedTerm
}

// clone copies x but for the bytes that are only ever replaced as a whole.
func (x *Meta) clone() *Meta {
	return &Meta{
		AppliedIndex:       x.AppliedIndex,
		AppliedTerm:        x.AppliedTerm,
		Configuration:      x.Configuration,
		ConfigurationIndex: x.ConfigurationIndex,
		Time:               x.Time,
		Fence:              x.Fence,
		FeatureLevel:       x.FeatureLevel,
		ClusterId:          x.ClusterId,
		Members:            slices.Clone(x.Members),
		Claimed:            x.Claimed,
		Completed:          x.Completed,
		Unknown:            x.Unknown,
		Resources:          x.Resources,
	}
}

// Apply applies entries, which are in the order of the log, in one batch of
// the store. Entries at or below the applied index are skipped. If it returns
// an error, nothing is to be counted on and the node must stop.
func (m *Machine) Apply(entries []LogEntry) (Applied, error) {
	committed := m.meta.Load()
	t := &transaction{
		batch:   m.store.Batch(),
		meta:    committed.clone(),
		sweptTo: m.sweptTo.Load(),
		scratch: &m.scratch,
	}
	defer t.batch.Discard()
	applied := Applied{Outcomes: make([][]*Outcome, len(entries))}
	for i, e := range entries {
		if e.Index <= t.meta.AppliedIndex {
			continue
		}
		outcomes, err := t.apply(e)
		if err != nil {
			return Applied{}, fmt.Errorf("apply log entry %d: %w", e.Index, err)
		}
		applied.Outcomes[i] = outcomes
	}
	if t.meta.AppliedIndex == committed.AppliedIndex {
		return applied, nil
	}
	if err := t.commit(); err != nil {
		return Applied{}, fmt.Errorf("apply up to log entry %d: %w", t.meta.AppliedIndex, err)
	}
	m.meta.Store(t.meta)
	m.sweptTo.Store(t.sweptTo)
	applied.Changed = t.changed
	return applied, nil
}

// transaction is the effect of one call of Apply as it grows.
type transaction struct {
	batch   Batch
	meta    *Meta
	term    uint64 // of the entry that is being applied
	changed []Key
	sweptTo *[]byte // see Machine.sweptTo
	*scratch
}

// scratch is space to build keys and values in. Each is used up before it is
// used again.
type scratch struct{ record, due, other, value []byte }

func (t *transaction) apply(e LogEntry) ([]*Outcome, error) {
	var outcomes []*Outcome
	t.term = e.Term
	if e.Configuration != nil {
		if e.Data != nil {
			return nil, errors.New("entry is both data and configuration")
		}
		t.meta.Configuration, t.meta.ConfigurationIndex = slices.Clone(e.Configuration), e.Index
	} else {
		time, commands, err := decodeEntry(e.Data)
		if err != nil {
			return nil, err
		}
		t.meta.Time = min(max(t.meta.Time, time), maxTime)
		outcomes = make([]*Outcome, len(commands))
		for i, b := range commands {
			c, err := decodeCommand(b)
			if err != nil {
				return nil, err
			}
			if outcomes[i], err = t.command(c); err != nil {
				return nil, fmt.Errorf("command %d, %v: %w", i, c.Kind, err)
			}
		}
	}
	t.meta.AppliedIndex, t.meta.AppliedTerm = e.Index, e.Term
	return outcomes, nil
}

// command applies c and returns its outcome.
func (t *transaction) command(c *Command) (*Outcome, error) {
	o, err := t.judge(c)
	if err != nil {
		return nil, err
	}
	o.Time = t.meta.Time
	return o, nil
}

func (t *transaction) judge(c *Command) (*Outcome, error) {
	if c.NotAfter != 0 && t.meta.Time > c.NotAfter || c.Term != 0 && c.Term != t.term {
		return &Outcome{Code: Code_TOO_LATE}, nil
	}
	if len(t.meta.ClusterId) == 0 && needsBinding(c) {
		return &Outcome{Code: Code_NOT_BOUND}, nil
	}
	if reason := c.mistake(); reason != "" {
		return refused(reason), nil
	}
	switch c.Kind {
	case Kind_CLAIM:
		return t.claim(c)
	case Kind_RENEW:
		return t.renew(c)
	case Kind_COMPLETE:
		return t.complete(c)
	case Kind_RELEASE:
		return t.release(c)
	case Kind_FAIL:
		return t.fail(c)
	case Kind_RESOLVE:
		return t.resolve(c)
	case Kind_FORGET:
		return t.forget(c)
	case Kind_CREATE:
		return t.create(c)
	case Kind_EXPIRE:
		return t.expire(c)
	case Kind_READ:
		return t.read(c)
	case Kind_FEATURE_LEVEL:
		t.meta.FeatureLevel = max(t.meta.FeatureLevel, c.Level)
		return done(), nil
	case Kind_BIND:
		return t.bind(c), nil
	case Kind_ADMIT:
		return t.admit(c), nil
	case Kind_DISMISS:
		return t.dismiss(c), nil
	}
	return nil, fmt.Errorf("%w: kind %d", ErrUndecodable, c.Kind)
}

// needsBinding tells a client's command from those by which a cluster forms
// and keeps itself.
func needsBinding(c *Command) bool {
	switch c.Kind {
	case Kind_BIND, Kind_FEATURE_LEVEL, Kind_EXPIRE:
		return false
	case Kind_READ:
		return c.Key != ""
	}
	return true
}

func refused(reason string) *Outcome { return &Outcome{Code: Code_REFUSED, Reason: reason} }

func stale() *Outcome { return &Outcome{Code: Code_STALE_FENCE} }

func done() *Outcome { return &Outcome{Code: Code_OK} }

func (t *transaction) commit() error {
	value, err := appendValue(t.value[:0], metaKey, t.meta)
	if err != nil {
		return err
	}
	t.value = value
	if err := t.batch.Set(metaKey, value); err != nil {
		return err
	}
	return t.batch.Commit()
}
