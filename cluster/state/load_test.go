package state

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// loaded returns a directory into which the journal up to entry 50 was loaded.
func loaded(t *testing.T) (dir string) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 50))
	_, data := fetch(t, source)
	dir = filepath.Join(t.TempDir(), "loaded")
	check(t, Load(dir, bytes.NewReader(data)))
	return dir
}

func TestLoadedStateBeginsAnewBehindAConfigurationThatNoLogHas(t *testing.T) {
	s := openState(t, loaded(t))
	wantApplied(t, s, 0)
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("before its founding it is the snapshot %v (%v)", list, err)
	}
	servers := raft.Configuration{Servers: []raft.Server{{ID: "m1", Address: "127.0.0.1:2"}}}
	check(t, s.Found(servers))
	before, err := s.Hash()
	check(t, err)

	// It is on disk, and goes with a log that is empty or begins behind it.
	s = openState(t, crash(t, s))
	wantApplied(t, s, 1)
	list, err := s.List()
	if check(t, err); len(list) != 1 || list[0].Index != 1 || list[0].Term != 1 || list[0].ConfigurationIndex != 1 || len(list[0].Configuration.Servers) != 1 || list[0].Configuration.Servers[0] != servers.Servers[0] {
		t.Fatalf("to raft it is %+v", list[0])
	}
	log := raft.NewInmemStore()
	check(t, s.CheckLog(log))
	storeLogs(t, log, 2, 5, 1)
	check(t, s.CheckLog(log))
	if first, last := index(t, log.FirstIndex), index(t, log.LastIndex); first != 2 || last != 5 {
		t.Errorf("the log has entries %d to %d, want 2 to 5", first, last)
	}

	// Once is enough: a restart finds it founded.
	check(t, s.Found(raft.Configuration{}))
	if after, err := s.Hash(); err != nil || after != before {
		t.Errorf("founding it again changed it (%v)", err)
	}
	rec, err := s.Lookup("default", "create-40")
	if check(t, err); rec == nil || rec.ResourceId != "r40" {
		t.Errorf("the record that was loaded is %v", rec)
	}
}

func index(t *testing.T, of func() (uint64, error)) uint64 {
	t.Helper()
	i, err := of()
	check(t, err)
	return i
}

func TestStateWithoutLoadedContentIsNotFounded(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	if err := s.Found(configuration); !errors.Is(err, fsm.ErrCorrupt) || !strings.Contains(err.Error(), "content that was restored is missing") {
		t.Errorf("error %v", err)
	}
	wantApplied(t, s, 0)
}

func TestDamagedContentIsNotLoaded(t *testing.T) {
	source := openState(t, filepath.Join(t.TempDir(), "source"))
	source.ApplyBatch(journal(t, 1, 50))
	_, data := fetch(t, source)
	data[len(data)/2] ^= 1
	if err := Load(filepath.Join(t.TempDir(), "loaded"), bytes.NewReader(data)); !errors.Is(err, errStream) {
		t.Errorf("error %v", err)
	}
}
