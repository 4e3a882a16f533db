package fsm

import "io"

// Store keeps the state of a machine: an ordered map of bytes, with reads that
// may run beside writes and writes that take effect together.
//
// One writer at a time; readers at any time. Slices that are passed in may be
// reused by the caller once the call has returned. An error means that the
// store can no longer be trusted and the node must stop.
type Store interface {
	// Get returns a copy of the value of key, or nil if there is none. It
	// sees every batch whose Commit has returned.
	Get(key []byte) ([]byte, error)
	// Scan calls visit with each key in [from, to) in ascending order, from
	// one consistent view, until visit returns false. visit must not keep
	// the slices.
	Scan(from, to []byte, visit func(key, value []byte) bool) error
	// Batch begins a set of writes. The caller commits or discards it before
	// it begins another.
	Batch() Batch
	// Sync makes everything committed so far durable.
	Sync() error
	io.Closer
}

// Batch is a set of writes that take effect together, readable while it grows.
type Batch interface {
	// Get and Scan see the writes of the batch on top of the store.
	Get(key []byte) ([]byte, error)
	Scan(from, to []byte, visit func(key, value []byte) bool) error
	Set(key, value []byte) error
	Delete(key []byte) error
	// Commit makes the writes visible: all of them once it has returned, and to a Get
	// beside it perhaps some before others. They are durable only after Sync.
	Commit() error
	// Discard drops the batch; after Commit it does nothing.
	Discard()
}
