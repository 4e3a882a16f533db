package cluster

import "errors"

// Errors that callers tell apart with errors.Is: each answers what the caller
// may do now.
var (
	// ErrUnavailable: no certain answer from a majority in time. See Begin and Propose for
	// what it says about the command.
	ErrUnavailable = errors.New("no majority in time")
	// ErrUnknownNode: no member has that id.
	ErrUnknownNode = errors.New("no such node")
	// ErrInvalidNode: the request names no node that can be added.
	ErrInvalidNode = errors.New("invalid node")
	// ErrConflict: the cluster is not in a state that allows it.
	ErrConflict = errors.New("the cluster does not allow it now")
)
