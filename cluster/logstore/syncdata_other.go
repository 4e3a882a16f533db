//go:build !linux && !wasip1 && !nosync

package logstore

import "github.com/hashicorp/raft-wal/types"

func syncData(f types.WritableFile) error { return f.Sync() }
