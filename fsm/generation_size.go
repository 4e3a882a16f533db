//go:build !smallgenerations && !wasip1

package fsm

// As many keys as two or three memtables hold, of usual responses, and as many bytes
// of large ones.
const (
	defaultGenerationKeys  = 1 << 18
	defaultGenerationBytes = 256 << 20
)
