//go:build smallgenerations && !wasip1

package fsm

// A binary with these has the files of generations come and go after some keys, and
// not after hundreds of thousands: for tests alone, which would else see none of it.
const (
	defaultGenerationKeys  = 32
	defaultGenerationBytes = 256 << 10
)
