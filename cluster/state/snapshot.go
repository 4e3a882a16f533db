package state

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// currentID is the id of the snapshot that the state itself is.
const currentID = "current"

// Snapshot implements raft.FSM. It costs nothing: the store is the snapshot,
// and only has to be synced.
func (s *State) Snapshot() (raft.FSMSnapshot, error) {
	// Once an entry could not be applied, what raft believes to have been
	// applied is no more than that.
	if err := s.failed(); err != nil {
		return nil, err
	}
	return &snapshot{s}, nil
}

type snapshot struct{ state *State }

// Persist implements raft.FSMSnapshot: raft may forget the log up to the
// snapshot's index afterwards, so everything before it is made durable.
func (p *snapshot) Persist(to raft.SnapshotSink) error {
	k, ok := to.(*sink)
	if !ok || k.state != p.state {
		return errors.New("persist snapshot: the sink is not of this state")
	}
	k.local = true
	began, before := time.Now(), p.state.Flushed()
	err := p.state.passOver(k.meta.Index, k.meta.Term)
	if err == nil {
		err = p.state.sync()
	}
	if err != nil {
		err = fmt.Errorf("persist snapshot: %w", err)
		p.state.fail(err)
		return err
	}
	if p.state.opts.OnSnapshot != nil {
		p.state.opts.OnSnapshot(time.Since(began), p.state.Flushed()-before)
	}
	return nil
}

// Release implements raft.FSMSnapshot.
func (p *snapshot) Release() {}

// passOver notes that the log has been applied up to index, where raft says
// so: between the last entry that the machine was given and that one there
// are only raft's own. Without it the log could be cut off behind the place
// from where the state needs it.
func (s *State) passOver(index, term uint64) error {
	nothing := fsm.LogEntry{Index: index, Term: term, Data: fsm.EncodeEntry(0, nil)}
	_, err := s.apply([]fsm.LogEntry{nothing}, false) // which skips it if it is behind
	return err
}

func (s *State) sync() error {
	l, release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	return l.sync()
}

func (l *store) sync() error {
	meta := l.machine.Meta()
	if err := l.data.Sync(); err != nil {
		return err
	}
	for {
		before := l.synced.Load()
		if before.AppliedIndex >= meta.AppliedIndex || l.synced.CompareAndSwap(before, meta) {
			return nil
		}
	}
}

// List implements raft.SnapshotStore: the one snapshot there is, as of what is
// certain to be on disk, or none if that is nothing.
func (s *State) List() ([]*raft.SnapshotMeta, error) {
	l, release, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	meta := l.synced.Load()
	if meta.AppliedIndex == 0 {
		return nil, nil
	}
	described := describe(currentID, meta)
	described.Size = l.data.Size() // about: it is sent as of a later moment
	return []*raft.SnapshotMeta{described}, nil
}

func describe(id string, meta *fsm.Meta) *raft.SnapshotMeta {
	m := &raft.SnapshotMeta{
		Version:            raft.SnapshotVersionMax,
		ID:                 id,
		Index:              meta.AppliedIndex,
		Term:               meta.AppliedTerm,
		ConfigurationIndex: meta.ConfigurationIndex,
	}
	if len(meta.Configuration) > 0 {
		m.Configuration = raft.DecodeConfiguration(meta.Configuration)
	}
	return m
}

// Open implements raft.SnapshotStore. The current state is copied, by hard
// links, and the description is that of the copy: both are of one moment.
func (s *State) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.RLock()
	p := s.pending
	s.mu.RUnlock()
	if p != nil && p.meta.ID == id {
		meta := p.meta
		return &meta, p, nil
	}
	if id != currentID {
		return nil, nil, fmt.Errorf("open snapshot: there is none of id %q", id)
	}
	l, release, err := s.acquire()
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot: %w", err)
	}
	defer release()
	dir := s.temporaryDir("sending")
	meta, content, err := l.copyTo(s.disk, dir)
	if errors.Is(err, fsm.ErrCorrupt) {
		s.fail(err) // the copy's files are the state's own
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open snapshot: %w", err), s.disk.Remove(dir))
	}
	return meta, content, nil
}

// Copy opens a snapshot of what is applied now, whether or not raft has been
// told of one.
func (s *State) Copy() (*raft.SnapshotMeta, io.ReadCloser, error) { return s.Open(currentID) }

func (l *store) copyTo(disk Disk, dir string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if err := l.data.Checkpoint(dir); err != nil {
		return nil, nil, err
	}
	content, size, err := disk.Pack(dir)
	if err != nil {
		return nil, nil, err
	}
	copied, err := inspect(disk, dir)
	if err != nil {
		return nil, nil, err
	}
	meta := describe(currentID, copied)
	meta.Size = size
	return meta, content, nil
}

// inspect returns the meta of a store that is not open, once it has read all
// that is stored there and found it as it was written. What is damaged must
// neither be sent nor take the place of what is whole.
func inspect(disk Disk, dir string) (*fsm.Meta, error) {
	damaged := make(chan error, 1)
	data, machine, err := openMachine(disk, dir, StoreOptions{
		ReadOnly:   true,
		CacheBytes: 1 << 20,
		OnFatal:    func(err error) { damaged <- err },
	})
	if err != nil {
		return nil, err
	}
	err = errors.Join(machine.Verify(), data.Close())
	select {
	case e := <-damaged:
		err = errors.Join(err, e)
	default:
	}
	return machine.Meta(), err
}

// Create implements raft.SnapshotStore. Raft calls it both for a snapshot of
// its own, to which Persist writes nothing, and for one that a leader sends.
func (s *State) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("create snapshot: version %d is not supported", version)
	}
	return &sink{state: s, meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 currentID,
		Index:              index,
		Term:               term,
		Configuration:      configuration,
		ConfigurationIndex: configurationIndex,
	}}, nil
}

// sink takes a snapshot. What is written to it is unpacked on the way, by a
// goroutine that Close and Cancel wait for.
type sink struct {
	state *State
	meta  raft.SnapshotMeta

	local  bool           // Persist was here
	dir    string         // "" before the first Write
	stream *io.PipeWriter // nil before the first Write and after the end
	ended  chan error
}

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.meta.ID }

// Write implements io.Writer.
func (k *sink) Write(p []byte) (int, error) {
	if k.dir == "" {
		k.dir = k.state.temporaryDir("received")
		var r *io.PipeReader
		r, k.stream = io.Pipe()
		k.ended = make(chan error, 1)
		go func() {
			err := k.state.disk.Unpack(r, k.dir)
			r.CloseWithError(err) // what follows is not read
			k.ended <- err
		}()
	}
	if k.stream == nil {
		return 0, errors.New("write snapshot: it has ended")
	}
	return k.stream.Write(p)
}

// end ends the stream with cause (nil: it is complete) and returns what became
// of it.
func (k *sink) end(cause error) error {
	k.stream.CloseWithError(cause)
	k.stream = nil
	return <-k.ended
}

// Close implements io.Closer: a snapshot that was received is checked, and is
// then ready for Restore.
func (k *sink) Close() error {
	if k.local {
		return nil
	}
	if k.stream == nil {
		return errors.New("receive snapshot: nothing came")
	}
	err := k.end(nil)
	if err == nil {
		err = k.check()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("receive snapshot: %w", err), k.state.disk.Remove(k.dir))
	}
	k.meta.ID = "received at " + k.dir
	k.state.keep(&parcel{meta: k.meta, dir: k.dir})
	return nil
}

// check makes sure that what came is what was announced: raft goes on from
// what was announced.
func (k *sink) check() error {
	meta, err := inspect(k.state.disk, k.dir)
	if err != nil {
		return err
	}
	if meta.AppliedIndex != k.meta.Index || meta.AppliedTerm != k.meta.Term || meta.ConfigurationIndex != k.meta.ConfigurationIndex {
		return fmt.Errorf("it is of entry %d of term %d with configuration %d, but entry %d of term %d with configuration %d was announced",
			meta.AppliedIndex, meta.AppliedTerm, meta.ConfigurationIndex, k.meta.Index, k.meta.Term, k.meta.ConfigurationIndex)
	}
	return nil
}

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	if k.stream == nil {
		return nil
	}
	_ = k.end(errors.New("the snapshot was cancelled")) // that is what comes back
	if err := k.state.disk.Remove(k.dir); err != nil {
		return fmt.Errorf("cancel snapshot: %w", err)
	}
	return nil
}

// receive takes a snapshot that comes to Restore as a stream.
func (s *State) receive(content io.Reader) (*parcel, error) {
	p := &parcel{dir: s.temporaryDir("received")}
	err := s.disk.Unpack(content, p.dir)
	if err == nil {
		_, err = inspect(s.disk, p.dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.disk.Remove(p.dir))
	}
	return p, nil
}

// keep holds p until Restore asks for it. One that came before it and never
// was asked for goes.
func (s *State) keep(p *parcel) {
	s.mu.Lock()
	old := s.pending
	s.pending = p
	s.mu.Unlock()
	if old != nil {
		if err := s.disk.Remove(old.dir); err != nil {
			s.opts.Log.Warn("a received snapshot is left over until the next start", "error", err)
		}
	}
}
