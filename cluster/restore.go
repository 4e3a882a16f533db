package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/onced/onced/cluster/peer"
	"github.com/onced/onced/cluster/state"
)

// Restored describes a backup that was restored.
type Restored struct {
	ClusterID string    // the cluster that it was taken from
	Index     uint64    // the last log entry in it
	Time      time.Time // cluster time then
	Size      int64     // bytes of the file
}

const stateDir = "state" // in the data directory

// Restore makes dataDir, missing or empty, the data directory of a node of a
// new cluster that begins with what is in the backup file. It is done once for
// every node of that cluster, with the same file: nodes that begin with
// different content refuse to form one. If it fails, nothing is left.
func Restore(dataDir, nodeID, file string) (Restored, error) {
	f, err := os.Open(file)
	if err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	b, err := readBackup(f)
	if err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", file, err)
	}
	err = peer.CreateSeeded(dataDir, nodeID, b.sum, stateDir, func(dir string) error { return state.Load(dir, b.state) })
	if err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", file, err)
	}
	return Restored{ClusterID: b.head.ClusterID, Index: b.head.Index, Time: b.head.Time, Size: b.size}, nil
}

// backup is a backup file whose checksum is right.
type backup struct {
	head  backupHead
	state io.Reader
	sum   [sha256.Size]byte
	size  int64
}

func readBackup(f *os.File) (backup, error) {
	info, err := f.Stat()
	if err != nil {
		return backup{}, err
	}
	if !info.Mode().IsRegular() {
		return backup{}, errors.New("it is not a file")
	}
	const lead = len(backupMagic) + 4
	start := make([]byte, lead)
	if _, err := f.ReadAt(start, 0); err != nil && err != io.EOF {
		return backup{}, fmt.Errorf("read backup: %w", err)
	}
	if string(start[:len(backupMagic)]) != backupMagic {
		return backup{}, errors.New("it is not a backup of onced, or one of a later release")
	}
	b := backup{size: info.Size()}
	covered := b.size - sha256.Size
	if b.sum, err = checkSum(f, covered); err != nil {
		return backup{}, err
	}
	// From here on everything is as it was written.
	length := int64(binary.BigEndian.Uint32(start[len(backupMagic):]))
	if int64(lead)+length > covered {
		return backup{}, errors.New("its head is too long")
	}
	head := make([]byte, length)
	if _, err := f.ReadAt(head, int64(lead)); err != nil {
		return backup{}, fmt.Errorf("read backup: %w", err)
	}
	if err := json.Unmarshal(head, &b.head); err != nil {
		return backup{}, fmt.Errorf("decode its head: %w", err)
	}
	begin := int64(lead) + length
	if begin+b.head.Size != covered {
		return backup{}, fmt.Errorf("it holds %d bytes of state, its head says %d", covered-begin, b.head.Size)
	}
	b.state = io.NewSectionReader(f, begin, b.head.Size)
	return b, nil
}

// checkSum returns the SHA-256 of the first size bytes of f, which is what
// follows them.
func checkSum(f *os.File, size int64) (sum [sha256.Size]byte, err error) {
	damaged := errors.New("it is damaged or was cut short: its checksum is wrong")
	if size < 0 {
		return sum, damaged
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return sum, fmt.Errorf("read backup: %w", err)
	}
	if _, err := f.ReadAt(sum[:], size); err != nil {
		return sum, fmt.Errorf("read backup: %w", err)
	}
	if !bytes.Equal(h.Sum(nil), sum[:]) {
		return sum, damaged
	}
	return sum, nil
}
