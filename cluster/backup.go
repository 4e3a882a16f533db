package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// A backup is:
//
//	"onced-backup 1\n"
//	length  4 bytes, big endian, of the head
//	head    JSON backupHead
//	state   head.Size bytes, as a snapshot is streamed between nodes
//	sum     SHA-256 of everything before it
const backupMagic = "onced-backup 1\n"

type backupHead struct {
	ClusterID string    `json:"cluster_id"`
	Index     uint64    `json:"index"`
	Term      uint64    `json:"term"`
	Time      time.Time `json:"cluster_time"`
	Size      int64     `json:"size"`
}

// Backup writes a consistent copy of the state, as of a moment after the call
// began, with its checksum.
func (n *Node) Backup(ctx context.Context, w io.Writer) error {
	if err := n.Barrier(ctx); err != nil {
		return err
	}
	meta, state, err := n.state.Copy()
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	defer state.Close()
	m := n.state.Meta()
	head, err := json.Marshal(backupHead{
		ClusterID: clusterIDString(m.ClusterId), Index: meta.Index, Term: meta.Term,
		Time: time.UnixMilli(m.Time).UTC(), Size: meta.Size,
	})
	if err != nil {
		return fmt.Errorf("encode head: %w", err)
	}
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	if _, err := io.WriteString(out, backupMagic); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(head))), head...)); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := io.CopyN(out, state, meta.Size); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}
