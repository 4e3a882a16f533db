package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// fetch reads the current snapshot of s.
func fetch(t *testing.T, s *State) (*raft.SnapshotMeta, []byte) {
	t.Helper()
	meta, content, err := s.Open(currentID)
	check(t, err)
	data, err := io.ReadAll(content)
	check(t, err)
	check(t, content.Close())
	if int64(len(data)) != meta.Size {
		t.Errorf("the snapshot has %d bytes, announced were %d", len(data), meta.Size)
	}
	return meta, data
}

// deliver writes data to a sink of s, in odd pieces, as raft does for a
// snapshot that a leader sends.
func deliver(s *State, meta *raft.SnapshotMeta, data []byte) (id string, err error) {
	k, err := s.Create(raft.SnapshotVersionMax, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		return "", err
	}
	for len(data) > 0 {
		n := min(len(data), 31_337)
		if _, err := k.Write(data[:n]); err != nil {
			return "", errors.Join(err, k.Cancel())
		}
		data = data[n:]
	}
	err = k.Close()
	return k.ID(), err
}

// wrapped is what raft makes of a snapshot's content.
type wrapped struct{ io.ReadCloser }

func (w wrapped) WrappedReadCloser() io.ReadCloser { return w.ReadCloser }

// restore restores a snapshot as raft does.
func restore(s *State, id string) error {
	_, content, err := s.Open(id)
	if err != nil {
		return err
	}
	return errors.Join(s.Restore(wrapped{content}), content.Close())
}

func TestSnapshotIsOfOneMomentWhileTheSourceGoesOn(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 100))
	logs := journal(t, 101, 600)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, log := range logs {
			source.Apply(log)
		}
	}()
	told := 0
	o := options(t)
	o.OnInstall = func(uint64) { told++ }
	target, err := Open(filepath.Join(t.TempDir(), "target"), o)
	check(t, err)
	defer target.Close()
	target.ApplyBatch(journal(t, 1, 20))
	for range 5 {
		meta, data := fetch(t, source)
		received, err := deliver(target, meta, data)
		check(t, err)
		check(t, restore(target, received))
		wantJournal(t, target, meta.Index)
		list, err := target.List()
		check(t, err)
		if list[0].Index != meta.Index || list[0].Term != meta.Term || list[0].ConfigurationIndex != meta.ConfigurationIndex {
			t.Errorf("installed %+v, listed %+v", meta, list[0])
		}
		wantApplied(t, openState(t, crash(t, target)), meta.Index)
	}
	<-done
	if target.Installs() != 5 || told != 5 {
		t.Errorf("%d installs, told of %d, want 5", target.Installs(), told)
	}
	index, _ := target.Applied()
	target.ApplyBatch(journal(t, index+1, 600))
	wantJournal(t, target, 600)
	if names, _ := filepath.Glob(filepath.Join(target.dir, "*")); len(names) != 2 {
		t.Errorf("the directory holds %v, want CURRENT and one store", names)
	}
}

func TestReadsGoOnWhileASnapshotIsInstalled(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 50))
	meta, data := fetch(t, source)
	target := openState(t, filepath.Join(t.TempDir(), "target"))
	target.ApplyBatch(journal(t, 1, 20))
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if rec, err := target.Lookup("default", "create-10"); err != nil || rec == nil {
				done <- errors.Join(errors.New("the record is gone"), err)
				return
			}
		}
	}()
	for range 5 {
		received, err := deliver(target, meta, data)
		check(t, err)
		check(t, restore(target, received))
	}
	close(stop)
	check(t, <-done)
}

// TestInstallCutOffAnywhereLeavesOneWholeState goes through the steps of an
// install and looks, after each, at what a crash would leave.
func TestInstallCutOffAnywhereLeavesOneWholeState(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 300))
	meta, data := fetch(t, source)
	target := openState(t, filepath.Join(t.TempDir(), "target"))
	target.ApplyBatch(journal(t, 1, 150))
	persist(t, target, 150, 2)
	want := func(step string, index uint64) {
		t.Helper()
		after := openState(t, crash(t, target))
		t.Log(step)
		wantJournal(t, after, index)
		if names, _ := filepath.Glob(filepath.Join(after.dir, "*")); len(names) != 2 {
			t.Errorf("%s: the directory holds %v, want CURRENT and one store", step, names)
		}
	}
	k, err := target.Create(raft.SnapshotVersionMax, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	check(t, err)
	for _, part := range [][]byte{data[:1], data[1 : len(data)/2], data[len(data)/2:]} {
		_, err = k.Write(part)
		check(t, err)
		want("partly received", 150)
	}
	check(t, k.Close())
	want("received", 150)
	_, content, err := target.Open(k.ID())
	check(t, err)
	number, err := target.place(content.(*parcel))
	check(t, err)
	want("placed", 150)
	next, err := target.openStore(number)
	check(t, err)
	want("opened", 150)
	check(t, target.writeCurrent(current{Store: number, Installed: meta.Index}))
	want("named", 300)
	target.adopt(next, meta.Index)
	want("adopted", 300)
	wantJournal(t, target, 300)
}

func TestFailedRestoreLeavesTheStateAsItWas(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 30))
	meta, data := fetch(t, source)
	target := openState(t, filepath.Join(t.TempDir(), "target"))
	target.ApplyBatch(journal(t, 1, 20))
	persist(t, target, 20, 1)
	received, err := deliver(target, meta, data)
	check(t, err)
	manifests, err := filepath.Glob(filepath.Join(target.dir, "received-*", "MANIFEST-*"))
	check(t, err)
	check(t, os.Remove(manifests[0]))
	if err := restore(target, received); err == nil {
		t.Error("a store without manifest was installed")
	}
	wantJournal(t, target, 20)
	wantJournal(t, openState(t, crash(t, target)), 20) // nor on disk
	if names, _ := filepath.Glob(filepath.Join(target.dir, "*")); len(names) != 2 {
		t.Errorf("the directory holds %v, want CURRENT and one store", names)
	}
	// The next attempt.
	received, err = deliver(target, meta, data)
	check(t, err)
	check(t, restore(target, received))
	wantJournal(t, target, 30)
}

func TestPlainStreamIsRestoredToo(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 30))
	_, data := fetch(t, source)
	target := openState(t, filepath.Join(t.TempDir(), "target"))
	check(t, target.Restore(io.NopCloser(bytes.NewReader(data))))
	wantJournal(t, target, 30)
}

// frame builds a stream by hand.
func frame(count uint32, files ...any) []byte {
	b := binary.BigEndian.AppendUint32([]byte(streamMagic), count)
	for i := 0; i < len(files); i += 3 {
		name := files[i].(string)
		b = append(append(b, byte(len(name))), name...)
		b = binary.BigEndian.AppendUint64(b, files[i+1].(uint64))
		b = append(b, files[i+2].(string)...)
	}
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

func TestDamagedStreamIsRefused(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 30))
	meta, data := fetch(t, source)
	flip := func(at int) []byte {
		b := bytes.Clone(data)
		b[at] ^= 1
		return b
	}
	other := *meta
	other.Index++
	older := *meta
	older.Term--
	cases := map[string]struct {
		meta *raft.SnapshotMeta
		data []byte
	}{
		"no byte":                       {meta, nil},
		"one byte":                      {meta, data[:1]},
		"half of it":                    {meta, data[:len(data)/2]},
		"all but one byte":              {meta, data[:len(data)-1]},
		"one byte more":                 {meta, append(bytes.Clone(data), 0)},
		"another version":               {meta, flip(len(streamMagic) - 2)},
		"a bit of a name flipped":       {meta, flip(len(streamMagic) + 8)},
		"a bit in the middle flipped":   {meta, flip(len(data) / 2)},
		"the last bit flipped":          {meta, flip(len(data) - 1)},
		"another index than announced":  {&other, data},
		"another term than announced":   {&older, data},
		"no files":                      {meta, frame(0)},
		"a file that is no store's":     {meta, frame(1, "a", uint64(1), "x")},
		"a name that leads up":          {meta, frame(1, "../../escaped", uint64(1), "x")},
		"an absolute name":              {meta, frame(1, "/escaped", uint64(1), "x")},
		"a name of two dots":            {meta, frame(1, "..", uint64(1), "x")},
		"no name":                       {meta, frame(1, "", uint64(1), "x")},
		"a name with a zero byte":       {meta, frame(1, "a\x00b", uint64(1), "x")},
		"a name given twice":            {meta, frame(2, "a", uint64(1), "x", "a", uint64(1), "x")},
		"a huge file":                   {meta, frame(1, "a", uint64(maxFileSize), "x")},
		"a file larger than any":        {meta, frame(1, "a", uint64(1)<<63, "x")},
		"four thousand million files":   {meta, frame(1<<32-1, "a", uint64(1), "x")},
		"a million files, of which one": {meta, frame(maxFiles, "a", uint64(1), "x")},
	}
	target := openState(t, filepath.Join(t.TempDir(), "target"))
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := deliver(target, c.meta, c.data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("it was taken")
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
	wantApplied(t, target, 0)
	if names, _ := filepath.Glob(filepath.Join(target.dir, "*")); len(names) != 2 {
		t.Errorf("the directory holds %v, want CURRENT and one store", names)
	}
	if _, err := os.Stat(filepath.Join(target.dir, "..", "escaped")); err == nil {
		t.Error("a file was written outside")
	}
}

func TestCancelledSnapshotLeavesNothing(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	k, err := s.Create(raft.SnapshotVersionMax, 5, 1, configuration, 1, nil)
	check(t, err)
	check(t, k.Cancel())
	_, err = k.Write([]byte(streamMagic))
	check(t, err)
	check(t, k.Cancel())
	if _, err := k.Write([]byte("more")); err == nil {
		t.Error("a cancelled sink took more")
	}
	if names, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(names) != 2 {
		t.Errorf("the directory holds %v, want CURRENT and one store", names)
	}
	if _, _, err := s.Open("received"); err == nil {
		t.Error("a snapshot that is not there was opened")
	}
	if _, err := s.Create(raft.SnapshotVersionMin, 5, 1, configuration, 1, nil); err == nil {
		t.Error("a sink for an old version was made")
	}
}

// storeLogs fills a log with entries from first to last of a term.
func storeLogs(t *testing.T, log raft.LogStore, first, last, term uint64) {
	t.Helper()
	for index := first; index <= last; index++ {
		check(t, log.StoreLog(&raft.Log{Index: index, Term: term}))
	}
}

func TestLogMustGoWithTheState(t *testing.T) {
	installed := func(t *testing.T) *State { // of entry 50, of term 1
		source := openState(t, filepath.Join(t.TempDir(), "source"))
		source.ApplyBatch(journal(t, 1, 50))
		_, data := fetch(t, source)
		s := openState(t, filepath.Join(t.TempDir(), "target"))
		check(t, s.Restore(io.NopCloser(bytes.NewReader(data))))
		return openState(t, crash(t, s))
	}
	applied := func(t *testing.T) *State {
		s := openState(t, filepath.Join(t.TempDir(), "state"))
		s.ApplyBatch(journal(t, 1, 50))
		return s
	}
	fresh := func(t *testing.T) *State { return openState(t, filepath.Join(t.TempDir(), "state")) }
	moved := func(t *testing.T) *State {
		s := installed(t)
		s.ApplyBatch(journal(t, 51, 60))
		return s
	}
	type span struct{ first, last, term uint64 }
	for name, c := range map[string]struct {
		state func(*testing.T) *State
		log   []span
		wrong string // in the refusal; "": none
		left  uint64 // last entry afterwards
	}{
		"a new node":                              {fresh, nil, "", 0},
		"a new state and a whole log":             {fresh, []span{{1, 9, 1}}, "", 9},
		"the log goes on behind the state":        {applied, []span{{1, 60, 1}}, "", 60},
		"the log ends with the state":             {applied, []span{{1, 50, 1}}, "", 50},
		"the log was compacted up to the state":   {applied, []span{{51, 60, 1}}, "", 60},
		"the log is empty":                        {applied, nil, "ends with entry 0", 0},
		"the log is behind the state":             {applied, []span{{1, 49, 1}}, "ends with entry 49", 49},
		"the log is of another term":              {applied, []span{{1, 60, 2}}, "of term 2", 60},
		"the log begins too late":                 {applied, []span{{52, 60, 1}}, "lacks the entry after it", 60},
		"installed, and the log emptied":          {installed, nil, "", 0},
		"installed, and the log not yet emptied":  {installed, []span{{1, 20, 1}}, "", 0},
		"installed over a log of another term":    {installed, []span{{1, 60, 9}}, "", 0},
		"installed, and the log has gone on":      {installed, []span{{51, 60, 1}}, "", 60},
		"installed over a log that reaches it":    {installed, []span{{1, 60, 1}}, "", 60},
		"installed, gone on, and the log is lost": {moved, nil, "ends with entry 0", 0},
		"installed and gone on, behind a gap":     {moved, []span{{1, 20, 1}, {51, 60, 1}}, "", 60},
	} {
		t.Run(name, func(t *testing.T) {
			log := raft.NewInmemStore()
			for _, s := range c.log {
				storeLogs(t, log, s.first, s.last, s.term)
			}
			err := c.state(t).CheckLog(log)
			if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("error %v, want %q", err, c.wrong)
			}
			if last, _ := log.LastIndex(); last != c.left {
				t.Errorf("the log ends with entry %d, want %d", last, c.left)
			}
		})
	}
}

func TestSnapshotOfAnotherStatesSinkIsRefused(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	p, err := s.Snapshot()
	check(t, err)
	if err := p.Persist(raftSink{}); err == nil {
		t.Error("it was persisted")
	}
	var none *fsm.Record
	if rec, err := s.Lookup("default", "nobody"); err != nil || rec != none {
		t.Errorf("the record is %v, %v", rec, err)
	}
}

type raftSink struct{ raft.SnapshotSink }

// spoiled returns a directory like that of a copy of a state, of entry 50, in
// which something was damaged, as its checkpoint is before it is sent.
func spoiled(t *testing.T, s *State, damage func(dir string)) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "spoiled")
	check(t, s.live.data.Checkpoint(dir))
	damage(dir)
	return dir
}

// flipValue flips a bit of the record of create-10 within its store.
func flipValue(t *testing.T, store fsm.Store) {
	t.Helper()
	key := []byte("rdefault\x00create-10")
	value, err := store.Get(key)
	check(t, err)
	value[len(value)-1] ^= 1
	b := store.Batch()
	check(t, b.Set(key, value))
	check(t, b.Commit())
	check(t, store.Sync())
}

// flipTables flips a bit in the data of each table.
func flipTables(t *testing.T, dir string) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	check(t, err)
	for _, table := range tables {
		data, err := os.ReadFile(table)
		check(t, err)
		data[len(data)/3] ^= 1
		check(t, os.Remove(table)) // the other name of the file stays as it is
		check(t, os.WriteFile(table, data, 0o600))
	}
}

// TestDamageIsNotInstalled: the stream is whole, and what is in it is not.
func TestDamageIsNotInstalled(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"a record": func(t *testing.T, dir string) {
			p, err := fsm.OpenPebble(dir, fsm.PebbleOptions{})
			check(t, err)
			flipValue(t, p)
			check(t, p.Close())
		},
		"a table": flipTables,
	} {
		t.Run(name, func(t *testing.T) {
			source := openState(t, filepath.Join(t.TempDir(), "source"))
			source.ApplyBatch(journal(t, 1, 50))
			content, err := newSending(spoiled(t, source, func(dir string) { damage(t, dir) }))
			check(t, err)
			data, err := io.ReadAll(content)
			check(t, errors.Join(err, content.Close()))
			target := openState(t, filepath.Join(t.TempDir(), "target"))
			target.ApplyBatch(journal(t, 1, 20))
			meta := &raft.SnapshotMeta{Index: 50, Term: 1, Configuration: configuration, ConfigurationIndex: 1}
			if _, err := deliver(target, meta, data); !errors.Is(err, fsm.ErrCorrupt) {
				t.Errorf("received: error %v", err)
			}
			if err := target.Restore(io.NopCloser(bytes.NewReader(data))); !errors.Is(err, fsm.ErrCorrupt) {
				t.Errorf("restored: error %v", err)
			}
			if err := Load(filepath.Join(t.TempDir(), "loaded"), bytes.NewReader(data)); !errors.Is(err, fsm.ErrCorrupt) {
				t.Errorf("loaded: error %v", err)
			}
			wantJournal(t, target, 20)
		})
	}
}

// TestDamageIsNotSent: whoever finds it in its own state must stop.
func TestDamageIsNotSent(t *testing.T) {
	var fatal []error
	o := options(t)
	o.OnFatal = func(err error) { fatal = append(fatal, err) }
	s, err := Open(filepath.Join(t.TempDir(), "state"), o)
	check(t, err)
	defer s.Close()
	s.ApplyBatch(journal(t, 1, 50))
	flipValue(t, s.live.data.(*fsm.Pebble))
	if _, _, err := s.Copy(); !errors.Is(err, fsm.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	if len(fatal) != 1 {
		t.Errorf("fatal reports: %v, want one", fatal)
	}
	if names, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(names) != 2 {
		t.Errorf("the directory holds %v, want CURRENT and one store", names)
	}
}
