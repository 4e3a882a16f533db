//go:build !nosync && !wasip1

package logstore

import (
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// diskFS is the disk, as it is.
func diskFS() types.VFS { return fs.New() }
