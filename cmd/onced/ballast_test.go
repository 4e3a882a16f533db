package main

import (
	"runtime"
	"testing"
)

func TestBallastIsHeldUnlessTheCollectorIsSet(t *testing.T) {
	for name, tc := range map[string]struct {
		variable string
		want     bool
	}{
		"nothing is set":    {"", true},
		"GOGC is set":       {"GOGC", false},
		"GOMEMLIMIT is set": {"GOMEMLIMIT", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			if tc.variable != "" {
				t.Setenv(tc.variable, "100")
			}
			before := allocated()
			release := holdBallast()
			held := allocated()-before >= ballastBytes*9/10 // other tests may free something
			release()
			if held != tc.want {
				t.Errorf("held: %v, want %v", held, tc.want)
			}
			if after := allocated(); after-before >= ballastBytes*9/10 {
				t.Errorf("%d bytes are held after the release", after-before)
			}
		})
	}
}

// allocated returns the bytes that are in use.
func allocated() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
