package main

import (
	"fmt"
	"time"

	"github.com/onced/onced/cluster"
)

type restoreCmd struct {
	NodeID  string `name:"node-id" default:"n1" help:"Name of the node that is to start with it."`
	DataDir string `default:"./onced-data" help:"Directory of that node, missing or empty."`
	File    string `arg:"" help:"Backup file, the same for every node of the new cluster."`
}

// Run fills one data directory; no node runs on it yet.
func (c *restoreCmd) Run(s *session) error {
	r, err := cluster.Restore(c.DataDir, c.NodeID, c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s: holds what cluster %s had at %s (log entry %d; %d bytes, checksum verified)\n"+
		"Restore the same file for every node of the new cluster, then start them all: onced serve --node-id %s --data-dir %s …\n",
		c.DataDir, r.ClusterID, r.Time.Format(time.RFC3339), r.Index, r.Size, c.NodeID, c.DataDir)
	return err
}
