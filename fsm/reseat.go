package fsm

import "fmt"

// fenceLeap is how far the fence jumps when a backup is restored: further than
// any cluster counts between two backups, and short enough for thousands of
// restores.
const fenceLeap = 1 << 40

// Reseat makes the state that of a new cluster before its first entry: the log,
// the nodes and the cluster that it comes from are forgotten. All else stays,
// but the fence leaps: the cluster that was backed up granted more afterwards,
// and none of those fences may be granted again, or be the higher one at an
// upstream that compares them. It must not run beside Apply.
func (m *Machine) Reseat() error {
	t := &transaction{batch: m.store.Batch(), meta: m.meta.Load().clone(), scratch: &m.scratch}
	defer t.batch.Discard()
	if t.meta.Fence > maxFence-fenceLeap {
		return fmt.Errorf("reseat machine: its fence %d is too near to its end", t.meta.Fence)
	}
	t.meta.AppliedIndex, t.meta.AppliedTerm = 0, 0
	t.meta.Configuration, t.meta.ConfigurationIndex = nil, 0
	t.meta.ClusterId, t.meta.Members = nil, nil
	t.meta.Fence += fenceLeap
	if err := t.commit(); err != nil {
		return fmt.Errorf("reseat machine: %w", err)
	}
	m.meta.Store(t.meta)
	return nil
}
