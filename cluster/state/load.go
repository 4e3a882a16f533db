package state

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/fsm"
)

// Raft begins every log with the configuration, as this entry.
const (
	foundingIndex = 1
	foundingTerm  = 1
)

// Load makes dir the state of a node that is yet to start, with the content of
// a snapshot stream but for what belongs to the cluster that it was taken from.
// All of it has been read and checked, and is on disk, when Load returns. On an
// error dir is left for the caller to remove.
func Load(dir string, stream io.Reader) error {
	if err := load(dir, stream); err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	return nil
}

func load(dir string, stream io.Reader) error {
	s := &State{dir: dir, disk: defaultDisk()}
	if err := s.disk.MakeDir(dir); err != nil {
		return err
	}
	c := current{Store: 1, Installed: foundingIndex}
	if err := s.disk.Unpack(stream, s.storeDir(c.Store)); err != nil {
		return err
	}
	// It is checked as one that a leader sends is, before anything is written to it.
	if _, err := inspect(s.disk, s.storeDir(c.Store)); err != nil {
		return err
	}
	if err := reseat(s.disk, s.storeDir(c.Store)); err != nil {
		return err
	}
	return s.writeCurrent(c)
}

func reseat(disk Disk, dir string) error {
	damaged := make(chan error, 1)
	data, machine, err := openMachine(disk, dir, StoreOptions{OnFatal: func(err error) { damaged <- err }})
	if err != nil {
		return err
	}
	if err = machine.Reseat(); err == nil {
		err = data.Sync()
	}
	err = errors.Join(err, data.Close())
	select {
	case e := <-damaged:
		err = errors.Join(err, e)
	default:
	}
	return err
}

// Found takes the first entry of a new cluster's log, its configuration, into
// the content that Load has put here. Every node of the new cluster does, and
// none has that entry in its log. So nobody can be brought up from the log
// alone, without the content: it would need entry 1, which raft finds in no log
// and makes up for by a snapshot. A state that has a first entry is left as it
// is.
func (s *State) Found(configuration raft.Configuration) error {
	if index, _ := s.Applied(); index > 0 {
		return nil
	}
	s.mu.RLock()
	loaded := s.installed == foundingIndex
	s.mu.RUnlock()
	if !loaded {
		return fmt.Errorf("found cluster: %w: the content that was restored is missing", fsm.ErrCorrupt)
	}
	_, err := s.apply([]fsm.LogEntry{{
		Index: foundingIndex, Term: foundingTerm, Configuration: raft.EncodeConfiguration(configuration),
	}}, true)
	if err == nil {
		err = s.sync()
	}
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	return nil
}
