package logstore

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
)

// digest is over everything in an entry that raft or the state machine acts on.
func digest(log *raft.Log) uint64 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[0:], log.Index)
	binary.BigEndian.PutUint64(head[8:], log.Term)
	head[16] = byte(log.Type)
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(head[:]) // a hash takes every write
	_, _ = d.Write(log.Data)
	return d.Sum64()
}

// stamp gives log its digest. It stays with the entry on every node: raft
// sends the extensions along and stores them.
func stamp(log *raft.Log) {
	log.Extensions = binary.BigEndian.AppendUint64(make([]byte, 0, 8), digest(log))
}

// verify checks that log is the entry of index and is what was stamped.
func verify(log *raft.Log, index uint64) error {
	switch {
	case log.Index != index:
		return fmt.Errorf("%w: entry %d is in the place of entry %d", ErrCorrupt, log.Index, index)
	case len(log.Extensions) != 8 || binary.BigEndian.Uint64(log.Extensions) != digest(log):
		return fmt.Errorf("%w: the entry does not match its digest", ErrCorrupt)
	}
	return nil
}

// CheckReceived reports, as ErrCorrupt, that an entry is not what the log that
// it was sent from holds.
func CheckReceived(log *raft.Log) error {
	if err := verify(log, log.Index); err != nil {
		return fmt.Errorf("entry %d: refused as received: %w", log.Index, err)
	}
	return nil
}
