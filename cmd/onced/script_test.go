package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this very binary as onced.
// programs are those that the scripts may run.
var programs = map[string]func(){"onced": main}

func TestMain(m *testing.M) {
	testscript.Main(m, programs)
}

func TestTheBinaryAsUsersRunIt(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(4 * time.Minute),
		Setup:               setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"post":    post,
			"listen":  takePort,
			"keyed":   keyed,
			"breaks":  breakOff,
			"free":    isFree,
			"oneline": oneLineOnly,
		},
	})
}

// setUpScript gives a script ports of its own, the scripts of this repository
// and the Go caches of whoever runs the tests.
func setUpScript(env *testscript.Env) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	base := freePorts()
	for name, value := range map[string]any{
		"REPO": root, "HTTP": fmt.Sprintf("127.0.0.1:%d", base), "RAFT": fmt.Sprintf("127.0.0.1:%d", base+1),
		"HTTP2": fmt.Sprintf("127.0.0.1:%d", base+2), "RAFT2": fmt.Sprintf("127.0.0.1:%d", base+3),
		"ONCED_HTTP_BASE": base + 3, "ONCED_RAFT_BASE": base + 6, "ONCED_GATEWAY_BASE": base + 9, "ONCED_CLUSTER_DIR": filepath.Join(env.WorkDir, "cluster"),
		"CLUSTER1": fmt.Sprintf("127.0.0.1:%d", base+4), "CLUSTER2": fmt.Sprintf("127.0.0.1:%d", base+5), "CLUSTER3": fmt.Sprintf("127.0.0.1:%d", base+6),
		"GATEWAY1": fmt.Sprintf("127.0.0.1:%d", base+10), "GATEWAY2": fmt.Sprintf("127.0.0.1:%d", base+11), "GATEWAY3": fmt.Sprintf("127.0.0.1:%d", base+12),
		"UPSTREAM": fmt.Sprintf("127.0.0.1:%d", base+13),
	} {
		env.Setenv(name, fmt.Sprint(value))
	}
	out, err := exec.Command("go", "env", "GOPATH", "GOMODCACHE", "GOCACHE", "GOFLAGS").Output()
	if err != nil {
		return fmt.Errorf("ask go for its caches: %w", err)
	}
	values := strings.Split(string(out), "\n")
	for i, name := range []string{"GOPATH", "GOMODCACHE", "GOCACHE", "GOFLAGS"} {
		env.Setenv(name, values[i])
	}
	env.Setenv("HOME", env.WorkDir)
	return nil
}

// ports are handed out from below those that the system gives to whoever asks
// for any, so that nobody is given one between its being found free and its
// being listened on. Round after round, so that no two of our own meet either.
var ports = struct {
	sync.Mutex
	next int
}{next: firstPort + rand.IntN(lastPort-firstPort)}

const (
	firstPort, lastPort = 12000, 31999
	portsInARow         = 20 // that freePorts finds
)

// freePorts finds twenty ports in a row that nobody has.
func freePorts() int { return takeFree(portsInARow) }

// takeFree finds n ports in a row that nobody has.
func takeFree(n int) int {
	ports.Lock()
	defer ports.Unlock()
	for range lastPort - firstPort {
		if ports.next+n > lastPort {
			ports.next = firstPort
		}
		base := ports.next
		ports.next += n
		free := true
		for port := base; port < base+n && free; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return base
		}
	}
	panic("no free ports")
}

// post sends a body to the first address that can be reached, and prints the
// status, the headers that matter and the body. $KEY, if set, is the key:
//
//	post BODY PATH ADDR...
func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: post BODY PATH ADDR...")
	}
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for _, addr := range args[2:] {
		r, err := http.NewRequest(http.MethodPost, "http://"+addr+args[1], strings.NewReader(args[0]))
		ts.Check(err)
		r.Header.Set("Content-Type", "application/json")
		if key := ts.Getenv("KEY"); key != "" {
			r.Header.Set("Idempotency-Key", key)
		}
		res, err := client.Do(r)
		if err != nil {
			last = err
			continue
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "%d replayed=%s\n%s\n", res.StatusCode, res.Header.Get("Idempotent-Replayed"), body)
		return
	}
	ts.Fatalf("post: %v", last)
}

// takePort listens on an address until the script ends, as another program
// would.
func takePort(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// keyed sends a POST with a key and a credential, and prints the status and the
// body:
//
//	keyed KEY PATH ADDR
func keyed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: keyed KEY PATH ADDR")
	}
	r, err := http.NewRequest(http.MethodPost, "http://"+args[2]+args[1], strings.NewReader("{}"))
	ts.Check(err)
	r.Header.Set("Idempotency-Key", args[0])
	r.Header.Set("Authorization", "Bearer t")
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(r)
	ts.Check(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d\n%s\n", res.StatusCode, body)
}

// breakOff serves an address, until the script ends, as a service that reads
// each request and closes the connection.
func breakOff(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	ts.Defer(func() { server.Close(); <-served })
}

// isFree checks that nothing listens on any of the addresses.
func isFree(ts *testscript.TestScript, neg bool, args []string) {
	for _, addr := range args {
		l, err := net.Listen("tcp", addr)
		ts.Check(err)
		l.Close()
	}
}

// oneLineOnly checks that a command that failed said why in one line and
// nothing else.
func oneLineOnly(ts *testscript.TestScript, neg bool, args []string) {
	stderr := ts.ReadFile("stderr")
	if strings.Count(stderr, "\n") != 1 || len(stderr) > 500 || !strings.HasPrefix(stderr, "onced: ") {
		ts.Fatalf("not one line of onced: %q", stderr)
	}
	if stdout := ts.ReadFile("stdout"); stdout != "" {
		ts.Fatalf("stdout: %q", stdout)
	}
}

func TestASecondSignalEndsTheProcessAtOnce(t *testing.T) {
	var stderr bytes.Buffer
	base := freePorts()
	addr := fmt.Sprintf("127.0.0.1:%d", base)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	onced := filepath.Join(t.TempDir(), "onced")
	if err := os.Symlink(self, onced); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(onced, "serve", "--data-dir", t.TempDir(), "--http-addr", addr,
		"--raft-addr", fmt.Sprintf("127.0.0.1:%d", base+1), "--drain-delay", "15s")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if err := run(t.Context(), []string{"status", "--wait", "30s", "--addr", addr}, nil, io.Discard, io.Discard); err != nil {
		t.Fatalf("%v; it said: %s", err, &stderr)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	awaitNotReady(t, addr)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil { // as a process ends that has stopped in good order
		t.Error("it went on as if it had been asked once")
	}
}

func awaitNotReady(t *testing.T, addr string) {
	t.Helper()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for range poll.C {
		res, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			t.Fatalf("readyz during the drain delay: %v", err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusServiceUnavailable {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("it stayed ready")
		}
	}
}
