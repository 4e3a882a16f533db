package main

import (
	"os"
	"runtime"
)

// ballastBytes are kept allocated and never touched, so that they take address
// space and no memory. The collector runs when what is allocated has doubled and
// counts them as well: with few keys stored, 25 MiB, it ran eight times a second
// under load, which cost a tenth of the new keys (docs/performance.md). A node may have so
// much more garbage instead.
const ballastBytes = 64 << 20

// holdBallast keeps the ballast until release is called; or nothing, if the
// environment says how the collector is to run.
func holdBallast() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	ballast := make([]byte, ballastBytes)
	return func() { runtime.KeepAlive(ballast) }
}
