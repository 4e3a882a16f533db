//go:build linux

package fault

import (
	"context"
	"maps"
	"slices"
)

// kind is one entry of the catalogue.
type kind struct {
	run func(context.Context, *injection) error
	// What it needs beside processes.
	hosts, disks bool
	// minority: it breaks less than a majority, and can go on while something
	// ambient does. ambient: it slows or misleads, and breaks nothing.
	minority, ambient bool
}

// catalogue is every fault by its name. Names are part of the command line.
//
// Not in it: packets that arrive twice, and bandwidth.
var catalogue map[string]kind

// init breaks the circle of the plan, which reads the catalogue.
func init() {
	catalogue = map[string]kind{
		"kill-node":       {run: killNode, minority: true},
		"kill-leader":     {run: killLeader, minority: true},
		"kill-all":        {run: killAll},
		"pause-leader":    {run: pauseLeader, minority: true},
		"pause-follower":  {run: pauseFollower, minority: true},
		"rolling-restart": {run: rollingRestart, minority: true},
		"transfer-leader": {run: transferLeader, minority: true},
		"parked-request":  {run: parkedRequest, minority: true},
		"pause-kill":      {run: pauseKill},
		"snapshot-kill":   {run: snapshotKill},

		"partition-node":                 {run: partitionNode, hosts: true, minority: true},
		"partition-leader":               {run: partitionLeader, hosts: true, minority: true},
		"partition-clients-reach-leader": {run: partitionPeers, hosts: true, minority: true},
		"partition-bridge":               {run: partitionBridge, hosts: true, minority: true},
		"partition-one-way-in":           {run: partitionDeaf, hosts: true, minority: true},
		"partition-one-way-out":          {run: partitionMute, hosts: true, minority: true},
		"part-kill":                      {run: partKill, hosts: true},
		"remove-cut-off-node":            {run: removeCutOff, hosts: true},
		"loss":                           {run: loss, hosts: true, ambient: true},
		"delay":                          {run: delay, hosts: true, ambient: true},
		"reorder":                        {run: reorder, hosts: true, ambient: true},

		"clock-step":  {run: clockStep, ambient: true},
		"clock-drift": {run: clockDrift, ambient: true},

		"disk-full":         {run: diskFull, disks: true, minority: true},
		"disk-stall":        {run: diskStall, disks: true, minority: true},
		"disk-slow":         {run: diskSlow, disks: true, ambient: true},
		"power-cut-node":    {run: powerCutNode, disks: true, minority: true},
		"power-cut-all":     {run: powerCutAll, disks: true},
		"wipe-follower":     {run: wipeFollower},
		"truncate-follower": {run: truncateFollower},
		"bitflip-follower":  {run: bitflipFollower},
	}
}

// Kinds are the names of all faults.
func Kinds() []string { return slices.Sorted(maps.Keys(catalogue)) }

// Kinds are the names of the faults that can be done to this cluster.
func (c *Cluster) Kinds() []string {
	return slices.DeleteFunc(Kinds(), func(name string) bool { return !c.offers(catalogue[name]) })
}

func (c *Cluster) offers(k kind) bool {
	return c.net != nil || !k.hosts && !k.disks
}
