package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// journal makes the entries of a log, the same for everybody who asks: entry 1
// is a configuration, entry 2 binds the cluster, each later one creates one
// resource and claims one key.
func journal(t *testing.T, first, last uint64) (logs []*raft.Log) {
	t.Helper()
	for index := first; index <= last; index++ {
		log := &raft.Log{Index: index, Term: 1 + index/100, Type: raft.LogCommand}
		switch index {
		case 1:
			log.Type = raft.LogConfiguration
			log.Data = raft.EncodeConfiguration(configuration)
		case 2:
			log.Data = encode(t, index, &fsm.Command{
				Kind: fsm.Kind_BIND, RequestId: id(index), ClusterId: id(77),
				Members: []*fsm.Member{{Id: "n1", RaftAddr: "127.0.0.1:1", Incarnation: id(78)}},
			})
		default:
			log.Data = encode(t, index, create(index), &fsm.Command{
				Kind: fsm.Kind_CLAIM, RequestId: id(index), Namespace: "default", Key: fmt.Sprintf("claim-%d", index),
				Surface: fsm.Surface_SURFACE_KEYS, AttemptId: "a", Lease: 1000, Ttl: 60000,
			})
		}
		logs = append(logs, log)
	}
	return logs
}

var configuration = raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "127.0.0.1:1"}}}

func create(n uint64) *fsm.Command {
	body := bytes.Repeat([]byte{byte('a' + n%26)}, 900)
	return &fsm.Command{
		Kind: fsm.Kind_CREATE, RequestId: id(n), Namespace: "default", Key: fmt.Sprintf("create-%d", n),
		Surface: fsm.Surface_SURFACE_CREATE, Ttl: 60000, ResourceId: fmt.Sprintf("r%d", n),
		Response: fsm.NewResponse(201, nil, body),
	}
}

func id(n uint64) []byte { return fmt.Appendf(nil, "%016d", n) }

func encode(t *testing.T, time uint64, commands ...*fsm.Command) []byte {
	t.Helper()
	encoded := make([][]byte, len(commands))
	for i, c := range commands {
		var err error
		encoded[i], err = c.MarshalVT()
		check(t, err)
	}
	return fsm.EncodeEntry(int64(time), encoded)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func options(t *testing.T) Options {
	return Options{
		Disk:    Files(fsm.PebbleOptions{CacheBytes: 1 << 20, GenerationKeys: 3}),
		OnFatal: func(err error) { t.Errorf("fatal: %v", err) },
	}
}

func openState(t *testing.T, dir string) *State {
	t.Helper()
	s, err := Open(dir, options(t))
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func wantApplied(t *testing.T, s *State, index uint64) {
	t.Helper()
	got, term := s.Applied()
	if got != index || index > 0 && term != 1+index/100 {
		t.Fatalf("applied entry %d of term %d, want %d", got, term, index)
	}
	if m := s.Meta(); m.AppliedIndex != got || m.AppliedTerm != term {
		t.Fatalf("the machine has applied entry %d of term %d, the state %d of %d", m.AppliedIndex, m.AppliedTerm, got, term)
	}
}

// wantJournal checks that s holds what the journal up to last makes.
func wantJournal(t *testing.T, s *State, last uint64) {
	t.Helper()
	wantApplied(t, s, last)
	other := openState(t, filepath.Join(t.TempDir(), "other"))
	other.ApplyBatch(journal(t, 1, last))
	want, err := other.Hash()
	check(t, err)
	got, err := s.Hash()
	check(t, err)
	if got != want {
		t.Fatal("the state is another than the journal makes")
	}
}

// persist takes a snapshot as raft does.
func persist(t *testing.T, s *State, index, term uint64) {
	t.Helper()
	p, err := s.Snapshot()
	check(t, err)
	k, err := s.Create(raft.SnapshotVersionMax, index, term, configuration, 1, nil)
	check(t, err)
	check(t, p.Persist(k))
	check(t, k.Close())
	p.Release()
	if k.ID() != currentID {
		t.Errorf("the snapshot's id is %q", k.ID())
	}
}

// crash copies what is on disk of s to a new directory, as if the process had
// ended there. Pebble compacts beside it: a copy that files changed under is
// made again.
func crash(t *testing.T, s *State) (dir string) {
	t.Helper()
	for {
		dir = filepath.Join(t.TempDir(), "state")
		before := files(t, s.dir)
		err := os.CopyFS(dir, os.DirFS(s.dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil && files(t, s.dir) == before {
			return dir
		}
	}
}

// files lists the files below dir with their sizes.
func files(t *testing.T, dir string) (list string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			list += fmt.Sprintln(path, info.Size())
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "it changes" + t.TempDir() // never equal to another
	}
	check(t, err)
	return list
}

func TestEntriesAreAnsweredOneByOne(t *testing.T) {
	var changed []fsm.Key
	var entries, commands int
	o := options(t)
	o.OnChange = func(keys []fsm.Key) { changed = append(changed, keys...) }
	o.OnApply = func(e, c int, _ time.Duration) { entries, commands = entries+e, commands+c }
	s, err := Open(filepath.Join(t.TempDir(), "state"), o)
	check(t, err)
	defer s.Close()
	responses := s.ApplyBatch(journal(t, 1, 4))
	if len(responses) != 4 {
		t.Fatalf("%d responses to 4 entries", len(responses))
	}
	for i, codes := range [][]fsm.Code{nil, {fsm.Code_OK}, {fsm.Code_CREATED, fsm.Code_GRANTED}, {fsm.Code_CREATED, fsm.Code_GRANTED}} {
		outcomes := responses[i].([]*fsm.Outcome)
		if len(outcomes) != len(codes) {
			t.Fatalf("entry %d has %d outcomes, want %d", i+1, len(outcomes), len(codes))
		}
		for j, code := range codes {
			if outcomes[j].Code != code {
				t.Errorf("entry %d: outcome %d is %v, want %v", i+1, j, outcomes[j].Code, code)
			}
		}
	}
	if again := s.Apply(journal(t, 4, 4)[0]).([]*fsm.Outcome); again != nil {
		t.Errorf("an entry was applied twice: %v", again)
	}
	testReads(t, s)
	rec, err := s.Lookup("default", "claim-3")
	check(t, err)
	s.Apply(&raft.Log{Index: 5, Term: 1, Data: encode(t, 5, &fsm.Command{
		Kind: fsm.Kind_RELEASE, RequestId: id(5), Namespace: "default", Key: "claim-3", Fence: rec.Fence,
	})})
	if entries != 6 || commands != 6 {
		t.Errorf("told of %d entries and %d commands, want 6 and 6", entries, commands)
	}
	if len(changed) != 1 || changed[0] != (fsm.Key{Namespace: "default", Key: "claim-3"}) {
		t.Errorf("told of changed keys %v, want the one released", changed)
	}
	wantApplied(t, s, 5)
}

func testReads(t *testing.T, s *State) {
	rec, err := s.Lookup("default", "create-3")
	check(t, err)
	if rec.GetState() != fsm.State_COMPLETED || len(rec.Response.Body) == 0 {
		t.Errorf("the record is %v", rec)
	}
	listed, more, err := s.Records("default", fsm.ListQuery{Limit: 3})
	if err != nil || len(listed) != 3 || !more {
		t.Errorf("%d records, more %v, error %v", len(listed), more, err)
	}
	resource, err := s.Resource("default", "r4")
	if err != nil || resource == nil {
		t.Errorf("the resource is %v, %v", resource, err)
	}
	resources, more, err := s.Resources("default", "", 9)
	if err != nil || len(resources) != 2 || more {
		t.Errorf("%d resources, more %v, error %v", len(resources), more, err)
	}
	if since, due, err := s.Due(1 << 40); err != nil || !due || since == 0 {
		t.Errorf("due since %d, %v, %v", since, due, err)
	}
}

func TestRestartLosesWhatWasNotSyncedAndReportsTheRest(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("an empty state lists %v, %v", list, err)
	}
	s.ApplyBatch(journal(t, 1, 250))
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("before the first sync it lists %v, %v", list, err)
	}
	persist(t, s, 250, 3)
	s.ApplyBatch(journal(t, 251, 400))

	after := openState(t, crash(t, s))
	wantApplied(t, after, 250)
	for _, s := range []*State{s, after} {
		list, err := s.List()
		check(t, err)
		if len(list) != 1 || list[0].Index != 250 || list[0].Term != 3 || list[0].ConfigurationIndex != 1 ||
			len(list[0].Configuration.Servers) != 1 || list[0].Configuration.Servers[0].ID != "n1" {
			t.Errorf("it lists %+v", list[0])
		}
	}
	wantJournal(t, after, 250)
	after.ApplyBatch(journal(t, 200, 400)) // from before its place in the log
	wantJournal(t, after, 400)
}

func TestCloseSyncs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	s.ApplyBatch(journal(t, 1, 50))
	check(t, s.Close())
	if _, err := s.Lookup("default", "create-3"); !errors.Is(err, errClosed) {
		t.Errorf("a closed state was read: %v", err)
	}
	if s.Meta() == nil || s.Size() != 0 {
		t.Error("a closed state has a size")
	}
	wantApplied(t, openState(t, dir), 50)
}

// TestSnapshotCountsRaftsOwnEntries: the machine was given entry 10 last, but
// raft's snapshot is of 12, a no-op. Raft may cut the log off behind that.
func TestSnapshotCountsRaftsOwnEntries(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	s.ApplyBatch(journal(t, 1, 10))
	before, err := s.Hash()
	check(t, err)
	persist(t, s, 12, 5)
	if index, _ := s.Applied(); index != 10 {
		t.Errorf("applied entry %d, want 10, the last one shown", index)
	}
	after := openState(t, crash(t, s))
	if index, term := after.Applied(); index != 12 || term != 5 {
		t.Errorf("applied entry %d of term %d, want 12 of 5", index, term)
	}
	if hash, err := after.Hash(); err != nil || hash != before {
		t.Errorf("the state has changed, %v", err)
	}
	s.ApplyBatch(journal(t, 13, 20))
	persist(t, s, 12, 5) // an old one, late
	wantApplied(t, s, 20)
}

func TestEntryThatCannotBeAppliedStopsTheNode(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"a flipped bit":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"unknown command": func([]byte) []byte { return fsm.EncodeEntry(1, [][]byte{{8, 127}}) },
		"nothing":         func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fatal []error
				closed := make(chan struct{})
				o := options(t)
				o.OnFatal = func(err error) { fatal = append(fatal, err) }
				o.Closed = closed
				s, err := Open(filepath.Join(t.TempDir(), "state"), o)
				check(t, err)
				s.ApplyBatch(journal(t, 1, 5))
				bad := journal(t, 6, 8)
				bad[1].Data = spoil(bad[1].Data)
				responses := make(chan []any)
				go func() { responses <- s.ApplyBatch(bad) }()
				synctest.Wait()
				if len(fatal) != 1 {
					t.Fatalf("fatal reports: %v, want one", fatal)
				}
				wantApplied(t, s, 5)
				if _, err := s.Snapshot(); err == nil {
					t.Error("raft was given a snapshot of what it believes to have been applied")
				}
				close(closed)
				if got := <-responses; len(got) != 3 || got[0] != nil {
					t.Errorf("responses %v, want three of nothing", got)
				}
				s.ApplyBatch(journal(t, 9, 9))
				wantApplied(t, s, 5)
				if len(fatal) != 1 {
					t.Errorf("fatal reports: %v, want one", fatal)
				}
				check(t, s.Close())
			})
		})
	}
}

// Once an entry was applied its answer may be out, and no other node may have it.
func TestNothingIsAppliedBeforeItIsInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written, closed := make(chan error), make(chan struct{})
		var asked uint64
		o := options(t)
		o.Closed = closed
		o.Await = func(index uint64) error { asked = index; return <-written }
		s, err := Open(filepath.Join(t.TempDir(), "state"), o)
		check(t, err)
		responses := make(chan []any)
		apply := func(from, to uint64, result error, want uint64) {
			t.Helper()
			before, _ := s.Applied()
			go func() { responses <- s.ApplyBatch(journal(t, from, to)) }()
			synctest.Wait()
			wantApplied(t, s, before)
			if asked != to {
				t.Errorf("it waits for entry %d, not %d", asked, to)
			}
			written <- result
			synctest.Wait()
			wantApplied(t, s, want)
		}
		apply(1, 5, nil, 5)
		if got := <-responses; len(got) != 5 || got[0] == nil {
			t.Errorf("responses %v", got)
		}
		apply(6, 7, errors.New("no disk"), 5)
		if _, err := s.Snapshot(); err != nil {
			t.Errorf("snapshot: %v", err) // of what it has; raft takes none meanwhile
		}
		close(closed)
		if got := <-responses; len(got) != 2 || got[0] != nil {
			t.Errorf("responses %v, want two of nothing", got)
		}
		check(t, s.Close())
	})
}

func TestCorruptRecordIsFatalAndNotReturned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	s.ApplyBatch(journal(t, 1, 50))
	check(t, s.Close())
	tables, err := filepath.Glob(filepath.Join(dir, "store-*", "*.sst"))
	check(t, err)
	for _, table := range tables {
		data, err := os.ReadFile(table)
		check(t, err)
		for i := 64; i < len(data)/2; i += 64 {
			data[i] ^= 1
		}
		check(t, os.WriteFile(table, data, 0o600))
	}
	var fatal sync.Map
	o := options(t)
	o.OnFatal = func(err error) { fatal.Store(err.Error(), true) }
	s, err = Open(dir, o)
	if err != nil {
		return // found at once
	}
	defer s.Close()
	if _, err := s.Hash(); err == nil {
		t.Error("damaged tables were read")
	}
	reports := 0
	fatal.Range(func(any, any) bool { reports++; return true })
	if reports != 1 {
		t.Errorf("%d fatal reports, want one", reports)
	}
}

func TestDirectoryIsTheOwnersAndKeptClean(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	s.ApplyBatch(journal(t, 1, 50))
	_, content, err := s.Open(currentID)
	check(t, err)
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		check(t, err)
		info, err := d.Info()
		check(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	}))
	check(t, content.Close())
	check(t, s.Close())
	for _, name := range []string{"store-000009", "received-000010", "sending-000011", "CURRENT.tmp"} {
		check(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	wantApplied(t, openState(t, dir), 50)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	check(t, err)
	if len(names) != 2 {
		t.Errorf("the directory holds %v, want CURRENT and one store", names)
	}
}

func TestDirectoryThatLostAPartIsRefused(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"CURRENT is missing": func(t *testing.T, dir string) { check(t, os.Remove(filepath.Join(dir, currentFile))) },
		"CURRENT is not readable": func(t *testing.T, dir string) {
			check(t, os.WriteFile(filepath.Join(dir, currentFile), []byte("?"), 0o600))
		},
		"the store is missing": func(t *testing.T, dir string) {
			check(t, os.WriteFile(filepath.Join(dir, currentFile), []byte(`{"store":4}`), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			s := openState(t, dir)
			s.ApplyBatch(journal(t, 1, 50))
			check(t, s.Close())
			damage(t, dir)
			if _, err := Open(dir, options(t)); !errors.Is(err, fsm.ErrCorrupt) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(s.storeDir(1)); err != nil {
				t.Errorf("the store was removed: %v", err)
			}
		})
	}
}

func TestSnapshotsTellWhatTheyWrote(t *testing.T) {
	o := options(t)
	var wrote []uint64
	o.OnSnapshot = func(_ time.Duration, n uint64) { wrote = append(wrote, n) }
	s, err := Open(t.TempDir()+"/state", o)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	s.ApplyBatch(journal(t, 1, 500))
	persist(t, s, 500, 1)
	persist(t, s, 500, 1)
	if len(wrote) != 2 || wrote[0] == 0 || wrote[1] != 0 {
		t.Errorf("told of %v bytes, want some and then none", wrote)
	}
}
