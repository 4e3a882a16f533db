package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of these tests: reaching it is a failure, never
// a verdict about speed.
const patience = 45 * time.Second

// binary is onced as users run it, and smallGenerations one whose generations end after
// some keys, each built once for all tests.
var binary, smallGenerations = build(""), build("smallgenerations")

func build(tags string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "onced-test-")
		if err != nil {
			return "", err
		}
		path := filepath.Join(dir, "onced")
		out, err := exec.Command("go", "build", "-tags", tags, "-o", path, ".").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build onced: %w\n%s", err, out)
		}
		return path, nil
	})
}

// processes is a cluster of real onced processes on loopback.
type processes struct {
	t      *testing.T
	nodes  []*process
	binary func() (string, error)
	extra  []string     // flags for every node
	client *http.Client // reaches the nodes
}

type process struct {
	id, dir, http, raft string
	host                machine  // where it runs, nil for this one
	flags               []string // beside those of all nodes
	cmd                 *exec.Cmd
	log                 *logBuffer
	exited              chan struct{}
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

// newProcesses lays out n nodes and starts none.
func newProcesses(t *testing.T, n int, extra ...string) *processes {
	t.Helper()
	c := &processes{t: t, binary: binary, extra: extra, client: client}
	for i := range n {
		c.nodes = append(c.nodes, &process{
			id: fmt.Sprintf("n%d", i+1), dir: filepath.Join(t.TempDir(), "data"),
			http: freeAddr(t), raft: freeAddr(t), log: &logBuffer{},
		})
	}
	t.Cleanup(c.cleanUp)
	return c
}

// startProcesses starts n nodes and waits until all are ready.
func startProcesses(t *testing.T, n int, extra ...string) *processes {
	t.Helper()
	c := newProcesses(t, n, extra...)
	for i := range n {
		c.start(i)
	}
	c.awaitReady()
	return c
}

func freeAddr(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", takeFree(1))
}

func (c *processes) peers() string {
	var list []string
	for _, p := range c.nodes {
		list = append(list, p.id+"="+p.raft)
	}
	return strings.Join(list, ",")
}

func (c *processes) start(i int) {
	c.t.Helper()
	p := c.nodes[i]
	c.run(p, slices.Concat([]string{"--peers", c.peers()}, c.extra, p.flags)...)
}

func (c *processes) run(p *process, flags ...string) {
	c.t.Helper()
	bin, err := c.binary()
	if err != nil {
		c.t.Fatal(err)
	}
	args := append([]string{"serve", "--node-id", p.id, "--data-dir", p.dir, "--http-addr", p.http, "--raft-addr", p.raft}, flags...)
	p.cmd = exec.Command(bin, args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := startOn(p.host, p.cmd); err != nil {
		c.t.Fatal(err)
	}
	exited := make(chan struct{})
	p.exited = exited
	cmd := p.cmd
	go func() {
		_ = cmd.Wait() // the state is read from cmd.ProcessState
		close(exited)
	}()
}

func (p *process) up() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (c *processes) signal(i int, s syscall.Signal) {
	c.t.Helper()
	if err := c.nodes[i].cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("signal %s: %v", c.nodes[i].id, err)
	}
	if s == syscall.SIGSTOP {
		await(c.t, c.nodes[i].id+" to stand still", func() bool { return standsStill(c.nodes[i].cmd.Process.Pid) })
	}
}

// standsStill reports whether every thread of a process has stopped, which takes
// a moment after the signal. Where there is no /proc nobody can tell.
func standsStill(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if _, rest, found := bytes.Cut(stat, []byte(") ")); err == nil && !(found && rest[0] == 'T') {
			return false
		}
	}
	return true
}

// kill ends a process at once, as a crash does.
func (c *processes) kill(i int) {
	c.t.Helper()
	c.signal(i, syscall.SIGKILL)
	c.awaitExit(i)
}

// terminate stops a process as an operator does, and returns its exit status.
func (c *processes) terminate(i int) int {
	c.t.Helper()
	c.signal(i, syscall.SIGTERM)
	c.awaitExit(i)
	return c.nodes[i].cmd.ProcessState.ExitCode()
}

func (c *processes) awaitExit(i int) {
	c.t.Helper()
	select {
	case <-c.nodes[i].exited:
	case <-time.After(patience):
		c.t.Fatalf("%s did not exit\n%s", c.nodes[i].id, c.nodes[i].log)
	}
}

func (c *processes) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited %v in vain for %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *processes) ready(i int) bool {
	status, _, err := c.get(i, "/readyz")
	return err == nil && status == http.StatusOK
}

func (c *processes) awaitReady() {
	c.t.Helper()
	for i, p := range c.nodes {
		if p.up() {
			c.eventually(p.id+" to be ready", func() bool { return c.ready(i) })
		}
	}
}

// client answers within the server's own deadlines; its timeout only keeps a
// test from hanging.
var client = &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func (c *processes) get(i int, path string) (int, []byte, error) {
	resp, err := c.client.Get("http://" + c.nodes[i].http + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// answer is what a client saw.
type answer struct {
	status   int
	body     string
	replayed bool
}

// create posts to /create of node i.
func (c *processes) create(i int, key, data string) (answer, error) {
	body := fmt.Sprintf(`{"idempotencyKey":%q,"data":%s}`, key, data)
	resp, err := c.client.Post("http://"+c.nodes[i].http+"/create", "application/json", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b), resp.Header.Get("Idempotent-Replayed") == "true"}, err
}

// mustCreate fails the test unless the answer is 201.
func (c *processes) mustCreate(i int, key, data string) answer {
	c.t.Helper()
	a, err := c.create(i, key, data)
	if err != nil || a.status != http.StatusCreated {
		c.t.Fatalf("create %s on %s: %v %+v\n%s", key, c.nodes[i].id, err, a, c.nodes[i].log)
	}
	return a
}

type clusterStatus struct {
	Leader string `json:"leader"`
	Nodes  []struct {
		ID           string `json:"id"`
		AppliedIndex uint64 `json:"applied_index"`
	} `json:"nodes"`
}

// leader returns the place of the leader among those that are up.
func (c *processes) leader() int {
	c.t.Helper()
	at := -1
	c.eventually("a leader", func() bool {
		for i, p := range c.nodes {
			if !p.up() {
				continue
			}
			status, body, err := c.get(i, "/v1/cluster")
			var s clusterStatus
			if err != nil || status != http.StatusOK || json.Unmarshal(body, &s) != nil {
				continue
			}
			for j, q := range c.nodes {
				if q.id == s.Leader && q.up() {
					at = j
					return true
				}
			}
		}
		return false
	})
	return at
}

// others returns the places of all nodes but i.
func (c *processes) others(i int) (rest []int) {
	for j := range c.nodes {
		if j != i {
			rest = append(rest, j)
		}
	}
	return rest
}

// agree waits until all nodes that are up hold the same state.
func (c *processes) agree() {
	c.t.Helper()
	c.eventually("replicas with equal state", func() bool {
		hashes := map[string]bool{}
		for i, p := range c.nodes {
			if !p.up() {
				continue
			}
			var s struct {
				Hash string `json:"state_hash"`
			}
			status, body, err := c.get(i, "/v1/cluster/state")
			if err != nil || status != http.StatusOK || json.Unmarshal(body, &s) != nil {
				return false
			}
			hashes[s.Hash] = true
		}
		return len(hashes) == 1
	})
}

func (c *processes) cleanUp() {
	for _, p := range c.nodes {
		if p.up() {
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		if c.t.Failed() {
			c.t.Logf("%s said:\n%s", p.id, p.log)
		}
	}
}

// load creates new keys through the given nodes until it is stopped, and keeps
// every answer. A worker uses one node only, and tries nothing twice: what it
// sees is what a client sees that does not retry.
type load struct {
	c    *processes
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	acked    map[string]answer
	failures []string
	longest  time.Duration // the longest time without an answer
}

func (c *processes) load(workers int, nodes ...int) *load {
	l := &load{c: c, stop: make(chan struct{}), acked: map[string]answer{}}
	for w := range workers {
		node := nodes[w%len(nodes)]
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.work(w, node)
		}()
	}
	return l
}

func (l *load) work(w, node int) {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		key := fmt.Sprintf("load-%p-%d-%d", l, w, n)
		begun := time.Now()
		a, err := l.c.create(node, key, fmt.Sprintf(`{"n":%d}`, n))
		took := time.Since(begun)
		l.mu.Lock()
		l.longest = max(l.longest, took)
		if err == nil && a.status == http.StatusCreated {
			l.acked[key] = a
		} else {
			l.failures = append(l.failures, fmt.Sprintf("%s on %s: %v %+v", key, l.c.nodes[node].id, err, a))
		}
		l.mu.Unlock()
	}
}

// count returns how many requests were acknowledged so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// awaitMore waits until n more requests were acknowledged.
func (l *load) awaitMore(n int) {
	l.c.t.Helper()
	want := l.count() + n
	l.c.eventually(fmt.Sprintf("%d more answers", n), func() bool { return l.count() >= want })
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

// noFailures fails the test if a client saw anything but a 201.
func (l *load) noFailures() {
	l.c.t.Helper()
	l.c.t.Logf("%d requests acknowledged, the slowest took %v", len(l.acked), l.longest.Round(time.Millisecond))
	for i, f := range l.failures {
		if i == 5 {
			break
		}
		l.c.t.Error(f)
	}
	if len(l.failures) > 0 {
		l.c.t.Errorf("%d of %d requests failed", len(l.failures), len(l.failures)+len(l.acked))
	}
}

// allStand reads every acknowledged answer back, in turn from each node that
// is up, and fails the test unless it is replayed byte for byte.
func (l *load) allStand() {
	l.c.t.Helper()
	var up []int
	for i, p := range l.c.nodes {
		if p.up() {
			up = append(up, i)
		}
	}
	i, wrong := 0, 0
	for key, want := range l.acked {
		node := up[i%len(up)]
		i++
		var n int
		fmt.Sscanf(key[strings.LastIndex(key, "-")+1:], "%d", &n)
		got, err := l.c.create(node, key, fmt.Sprintf(`{"n":%d}`, n))
		if err != nil || got.body != want.body || got.status != want.status || !got.replayed {
			if wrong++; wrong <= 5 {
				l.c.t.Errorf("%s on %s: %v %+v, first answer was %+v", key, l.c.nodes[node].id, err, got, want)
			}
		}
	}
	if wrong > 0 {
		l.c.t.Errorf("%d of %d acknowledged answers do not stand", wrong, len(l.acked))
	}
}

// machine is where a process can be started; chaos/netns has such.
type machine interface{ Start(cmd *exec.Cmd) error }

// startOn starts cmd on a host, or here where there is none.
func startOn(host machine, cmd *exec.Cmd) error {
	if host == nil {
		return cmd.Start()
	}
	return host.Start(cmd)
}

// leaderOf is the place of the node that node i takes for the leader, or -1.
func (c *processes) leaderOf(i int) int {
	c.t.Helper()
	var s clusterStatus
	if _, body, err := c.get(i, "/v1/cluster"); err != nil || json.Unmarshal(body, &s) != nil {
		return -1
	}
	return slices.IndexFunc(c.nodes, func(p *process) bool { return p.id == s.Leader })
}
