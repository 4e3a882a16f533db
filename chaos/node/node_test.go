//go:build linux

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait: reaching it is a failure, never a verdict about
// speed.
const patience = 45 * time.Second

// oncedBinary is onced as users run it, built once for all tests.
var oncedBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "onced")
	out, err := exec.Command("go", "build", "-o", path, "github.com/onced/onced/cmd/onced").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build onced: %w\n%s", err, out)
	}
	return path, nil
})

var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "onced-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(dir)
		os.Exit(status)
	}))
}

// single is a cluster of one.
type single struct {
	*testing.T
	*Node
}

// freeAddrs are different addresses on loopback that nobody listens on.
func freeAddrs(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // each stays taken until all are found
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

func startSingle(t *testing.T) *single {
	t.Helper()
	bin, err := oncedBinary()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	dir, addrs := t.TempDir(), freeAddrs(t, 2)
	s := &single{t, New(Config{
		ID: "n1", Binary: bin, DataDir: filepath.Join(dir, "data"), Log: filepath.Join(dir, "log"),
		HTTPAddr: addrs[0], RaftAddr: addrs[1], Client: &http.Client{Timeout: patience, Transport: transport},
	})}
	t.Cleanup(func() {
		if err := s.Kill(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if said, _ := s.Said(0); t.Failed() {
			t.Log(said)
		}
	})
	s.must(s.Start())
	s.awaitReady()
	return s
}

func (s *single) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *single) awaitReady() {
	s.Helper()
	s.eventually("ready", func() bool { return s.Ready(s.Context()) })
}

func (s *single) eventually(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("waited %v in vain for it to be %s", patience, what)
		}
	}
}

func TestAProcessIsKilledStoppedAndStartedAgain(t *testing.T) {
	s := startSingle(t)
	if err := s.Start(); err == nil {
		t.Error("it was started twice")
	}
	_, err := s.Call(t.Context(), http.MethodPost, "/create", `{"idempotencyKey":"k","data":1}`)
	s.must(err)
	first := s.PID()
	s.must(s.Kill(t.Context()))
	s.must(s.Kill(t.Context()))
	if s.Up() || s.PID() != 0 || s.Pause() == nil {
		t.Error("a killed process is up")
	}
	from := s.LogSize()
	s.must(s.Start())
	s.awaitReady()
	if said, err := s.Said(from); err != nil || strings.Count(said, "msg=serving") != 1 {
		t.Errorf("at its second start it said %q, %v", said, err)
	}
	if s.PID() == first {
		t.Error("it is the same process")
	}
	view, err := s.View(t.Context())
	s.must(err)
	if view.Leader != "n1" || view.Term < 2 || len(view.Nodes) != 1 {
		t.Errorf("the view is %+v", view)
	}
	if n, err := s.Metric(t.Context(), "onced_is_leader"); err != nil || n != 1 {
		t.Errorf("the metric is %v, %v", n, err)
	}
	if _, err := s.Metric(t.Context(), "onced_is"); err == nil {
		t.Error("half a name is a metric")
	}
	if status, err := s.Terminate(t.Context()); err != nil || status != 0 {
		t.Errorf("exit status %d, %v", status, err)
	}
}

func TestAPausedProcessDoesNothingUntilItGoesOn(t *testing.T) {
	s := startSingle(t)
	s.must(s.Pause())
	stat := func() string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.PID()))
		s.must(err)
		return strings.Fields(string(b))[2]
	}
	s.eventually("stopped", func() bool { return stat() == "T" })
	if !s.Paused() {
		t.Error("it is not paused")
	}
	s.must(s.Resume())
	s.must(s.Resume())
	s.awaitReady()
	if s.Paused() {
		t.Error("it is paused")
	}
}

// TestTheClockOfOneProcessIsShifted reads the clock off the times in records: a
// cluster of one has no clock but its own.
func TestTheClockOfOneProcessIsShifted(t *testing.T) {
	s := startSingle(t)
	clock := func(key string) time.Duration {
		t.Helper()
		b, err := s.Call(t.Context(), http.MethodPost, "/v1/keys/"+key+"/claim", `{"lease":"1h"}`)
		s.must(err)
		var claim struct {
			Ends time.Time `json:"lease_expires_at"`
		}
		s.must(json.Unmarshal(b, &claim))
		return time.Until(claim.Ends) - time.Hour
	}
	for i, offset := range []time.Duration{0, 25 * time.Hour, 25*time.Hour + 1500*time.Millisecond, 26 * time.Hour} {
		s.must(s.SetClock(offset))
		// Far off is what was asked for; near it is patience, not precision.
		var off time.Duration
		s.eventually("as far off as told", func() bool {
			i += 100
			off = clock(fmt.Sprint("k", i))
			return off > offset-patience && off < offset+patience
		})
		t.Logf("shifted by %v it is off by %v", offset, off)
	}
	s.must(s.Kill(t.Context()))
	if err := s.SetClock(time.Hour); err == nil {
		t.Error("the clock of a process that is gone is shifted")
	}
}
