package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onced/onced/client"
)

// patience bounds every wait of these tests: reaching it is a failure, never
// a verdict about speed.
const patience = 45 * time.Second

// dir holds the binary and the data of the shared node. Set by TestMain.
var dir string

// binary is onced as users run it. Fuzzing needs neither it nor a node, so both
// come with their first use.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(dir, "onced")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/onced").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build onced: %w\n%s", err, out)
	}
	return path, nil
})

// started is the shared node once there is one. TestMain stops it.
var started *nodes

var startShared = sync.OnceValue(func() (err error) {
	started, err = startNodes(dir, 1)
	return err
})

// shared returns the URL of the node for every test that needs no more. The
// examples use it too, and have no other way to fail.
func shared() []string {
	if err := startShared(); err != nil {
		panic(err)
	}
	return started.urls()
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if dir, err = os.MkdirTemp("", "onced-client-"); err != nil {
		return complain(err)
	}
	defer os.RemoveAll(dir)
	code := m.Run()
	if started != nil {
		started.stop()
	}
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		return complain(err)
	}
	return code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// nodes is a cluster of real onced processes on loopback.
type nodes struct{ all []*node }

type node struct {
	http   string
	cmd    *exec.Cmd
	log    *logBuffer
	exited chan struct{}
}

// logBuffer keeps what a process says.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// given are the addresses that freeAddr has returned.
var given sync.Map

// freeAddr returns a loopback address that was free a moment ago, another each
// time: the system may give the same again.
func freeAddr() (string, error) {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addr := l.Addr().String()
		l.Close()
		if _, again := given.LoadOrStore(addr, true); !again {
			return addr, nil
		}
	}
}

// startNodes starts n nodes below dir and waits until all are ready.
func startNodes(dir string, n int, flags ...string) (*nodes, error) {
	binary, err := binary()
	if err != nil {
		return nil, err
	}
	var peers, raft []string
	c := &nodes{}
	for i := range n {
		peer, err := freeAddr()
		if err != nil {
			return nil, err
		}
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		raft = append(raft, peer)
		peers = append(peers, fmt.Sprintf("n%d=%s", i+1, peer))
		c.all = append(c.all, &node{http: addr, log: &logBuffer{}, exited: make(chan struct{})})
	}
	for i, p := range c.all {
		args := append([]string{"serve", "--node-id", fmt.Sprintf("n%d", i+1), "--data-dir", filepath.Join(dir, fmt.Sprintf("data-%d", i+1)),
			"--http-addr", p.http, "--raft-addr", raft[i], "--peers", strings.Join(peers, ",")}, flags...)
		p.cmd = exec.Command(binary, args...)
		p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
		if err := p.cmd.Start(); err != nil {
			c.stop()
			return nil, fmt.Errorf("start onced: %w", err)
		}
		go func() {
			_ = p.cmd.Wait() // its state is of no interest
			close(p.exited)
		}()
	}
	for _, p := range c.all {
		if err := p.awaitReady(); err != nil {
			c.stop()
			return nil, err
		}
	}
	return c, nil
}

func (p *node) awaitReady() error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + p.http + "/readyz")
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("%s was not ready in %v:\n%s", p.http, patience, p.log)
}

// stop ends every process that was started.
func (c *nodes) stop() {
	for i, p := range c.all {
		if p.cmd != nil && p.cmd.Process != nil {
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
			c.kill(i)
		}
	}
}

// kill ends a process at once, as a crash does.
func (c *nodes) kill(i int) {
	_ = c.all[i].cmd.Process.Kill() // it may have ended
	<-c.all[i].exited
}

func (c *nodes) signal(t *testing.T, i int, s syscall.Signal) {
	t.Helper()
	if err := c.all[i].cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal node %d: %v", i, err)
	}
}

func (c *nodes) urls() []string {
	var urls []string
	for _, p := range c.all {
		urls = append(urls, "http://"+p.http)
	}
	return urls
}

// cluster starts nodes that end with the test.
func cluster(t *testing.T, n int, flags ...string) *nodes {
	t.Helper()
	c, err := startNodes(t.TempDir(), n, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.stop()
		for _, p := range c.all {
			if t.Failed() {
				t.Logf("%s said:\n%s", p.http, p.log)
			}
		}
	})
	return c
}

// dial returns a client of the nodes. change, if any, is applied to its
// configuration.
func dial(t testing.TB, urls []string, change ...func(*client.Config)) *client.Client {
	t.Helper()
	cfg := client.Config{Nodes: urls}
	for _, f := range change {
		f(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// patient returns a context that ends only if something hangs.
func patient(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// leaderID asks a node which one leads.
func leaderID(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/cluster", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var status struct {
		Leader string `json:"leader"`
	}
	err = json.NewDecoder(resp.Body).Decode(&status)
	return status.Leader, err
}
