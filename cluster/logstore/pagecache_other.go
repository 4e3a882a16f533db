//go:build !linux && !wasip1

package logstore

// dropCached leaves it to the kernel what it keeps in memory.
func dropCached(string) error { return nil }
