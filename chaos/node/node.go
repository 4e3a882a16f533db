//go:build linux

// Package node runs real onced processes and does to them what happens to
// processes: they are killed, paused, told to stop, and their clocks go wrong.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what a node is started with, and how it is reached.
type Config struct {
	ID      string // at first, until Rename
	Binary  string // of onced
	DataDir string
	// Log is the file that takes what the node says, after what it holds.
	Log string

	HTTPAddr, RaftAddr string
	GatewayAddr        string   // empty: no gateway
	Peers              string   // every node of a new cluster, as --peers has them
	Flags              []string // further ones

	// Launch starts the process; nil starts it here.
	Launch func(*exec.Cmd) error
	// Client reaches HTTPAddr.
	Client *http.Client
}

// Node is one member of a cluster: a process that may be up or not, and its
// directory. Its methods may be called from several goroutines.
type Node struct {
	Config

	mu      sync.Mutex // guards the fields below
	id      string
	process *process // nil before the first start
	joins   string   // peer address of a member, where the node is to be added
}

// process is one run of a node.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has been waited for
	clock  *clock        // nil as long as it is right
	paused bool
}

// New describes a node; Start starts it.
func New(c Config) *Node { return &Node{Config: c, id: c.ID} }

// ErrNotUp is that of a call for a process that does not run.
var ErrNotUp = errors.New("the node is not up")

// Start starts the node, which must not be up. It dies with this process.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process.up() {
		return fmt.Errorf("start %s: it is up", n.id)
	}
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	defer log.Close() // the process has its own descriptor
	cmd := exec.Command(n.Binary, n.args()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	launch := n.Launch
	if launch == nil {
		launch = (*exec.Cmd).Start
	}
	if err := launch(cmd); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // how it ended is read from its state
	}()
	n.process = p
	return nil
}

func (n *Node) args() []string {
	args := []string{"serve", "--node-id", n.id, "--data-dir", n.DataDir, "--http-addr", n.HTTPAddr, "--raft-addr", n.RaftAddr}
	if n.GatewayAddr != "" {
		args = append(args, "--gateway-addr", n.GatewayAddr)
	}
	switch {
	case n.joins != "":
		args = append(args, "--join", n.joins)
	case n.Peers != "":
		args = append(args, "--peers", n.Peers)
	}
	return append(args, n.Flags...)
}

// Rename gives a node that is not up another id. When it is started it joins
// the cluster of the member whose peer address is given: by its list of peers
// it would not start with an empty directory.
func (n *Node) Rename(id, member string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process.up() {
		return fmt.Errorf("rename %s: it is up", n.id)
	}
	n.id, n.joins = id, member
	return nil
}

func (p *process) up() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Name is the node's id in its cluster.
func (n *Node) Name() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

// Up reports whether the process runs, paused or not.
func (n *Node) Up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process.up()
}

// PID is the id of the process, 0 where it does not run.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.process.up() {
		return 0
	}
	return n.process.cmd.Process.Pid
}

// signal sends a signal to the process, and returns the process.
func (n *Node) signal(s syscall.Signal) (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.process.up() {
		return nil, fmt.Errorf("%v to %s: %w", s, n.id, ErrNotUp)
	}
	if err := n.process.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, fmt.Errorf("%v to %s: %w", s, n.id, err)
	}
	switch s {
	case syscall.SIGSTOP:
		n.process.paused = true
	case syscall.SIGCONT:
		n.process.paused = false
	}
	return n.process, nil
}

// Kill ends the process at once, as a crash does, and waits until it is gone. A
// process that waits for a disk that hangs goes when the disk does not.
func (n *Node) Kill(ctx context.Context) error {
	p, err := n.signal(syscall.SIGKILL)
	if errors.Is(err, ErrNotUp) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.await(ctx, n.Name())
}

// Terminate asks the process to stop, and returns its exit status.
func (n *Node) Terminate(ctx context.Context) (status int, err error) {
	p, err := n.signal(syscall.SIGTERM)
	if err != nil {
		return 0, err
	}
	if err := p.await(ctx, n.Name()); err != nil {
		return 0, err
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// AwaitExit waits until the process has ended, and returns its exit status.
func (n *Node) AwaitExit(ctx context.Context) (status int, err error) {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return 0, fmt.Errorf("wait for %s: %w", n.Name(), ErrNotUp)
	}
	if err := p.await(ctx, n.Name()); err != nil {
		return 0, err
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

func (p *process) await(ctx context.Context, id string) error {
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", id, ctx.Err())
	}
}

// Pause stops the process where it is; Resume lets it go on.
func (n *Node) Pause() error {
	_, err := n.signal(syscall.SIGSTOP)
	return err
}

// Resume lets a paused process go on; one that is not up, or not paused, stays
// as it is.
func (n *Node) Resume() error {
	_, err := n.signal(syscall.SIGCONT)
	if errors.Is(err, ErrNotUp) {
		return nil
	}
	return err
}

// Paused reports whether the process is up and paused.
func (n *Node) Paused() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process.up() && n.process.paused
}

// SetClock makes the wall clock of the process go ahead by offset, or behind
// where it is negative, and nobody else's. Timers run on as they did. It ends
// with the process.
func (n *Node) SetClock(offset time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.process.up() {
		return fmt.Errorf("set the clock of %s: %w", n.id, ErrNotUp)
	}
	err := n.process.setClock(offset)
	if err != nil && n.process.dying() {
		err = ErrNotUp
	}
	if err != nil {
		return fmt.Errorf("set the clock of %s: %w", n.id, err)
	}
	return nil
}

func (p *process) setClock(offset time.Duration) error {
	if p.clock == nil {
		c, err := openClock(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		p.clock = c
	}
	return p.clock.set(offset)
}

// dying reports whether the process has lost its memory, a moment before it is
// seen to have ended.
func (p *process) dying() bool {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.cmd.Process.Pid))
	return err != nil || len(maps) == 0
}

// View is the cluster as one node sees it.
type View struct {
	Leader string `json:"leader"` // empty where it knows none
	Term   uint64 `json:"term"`
	Node   string `json:"node"` // that answered
	Nodes  []struct {
		ID           string `json:"id"`
		RaftAddr     string `json:"raft_addr"`
		Voter        bool   `json:"voter"`
		Healthy      bool   `json:"healthy"`
		AppliedIndex uint64 `json:"applied_index"`
	} `json:"nodes"`
}

// View asks the node how it sees the cluster.
func (n *Node) View(ctx context.Context) (v View, err error) {
	body, err := n.Call(ctx, http.MethodGet, "/v1/cluster", "")
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	if err != nil {
		return View{}, fmt.Errorf("view of %s: %w", n.Name(), err)
	}
	return v, nil
}

// Ready reports whether the node says that it is ready.
func (n *Node) Ready(ctx context.Context) bool {
	_, err := n.Call(ctx, http.MethodGet, "/readyz", "")
	return err == nil
}

// Metric is the value of a metric of the node, summed over its labels.
func (n *Node) Metric(ctx context.Context, name string) (sum float64, err error) {
	body, err := n.Call(ctx, http.MethodGet, "/metrics", "")
	if err != nil {
		return 0, fmt.Errorf("metric of %s: %w", n.Name(), err)
	}
	found := false
	for line := range strings.Lines(string(body)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s of %s: %w", name, n.Name(), err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("metric %s of %s: there is none", name, n.Name())
	}
	return sum, nil
}

// Refusal is an answer with status 300 or more.
type Refusal struct {
	Request string // method and path
	Status  int
	Body    string
}

// Error tells all of it.
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %d: %s", r.Request, r.Status, r.Body) }

// Call sends a request to the API of the node and returns the body of its
// answer, or a *Refusal.
func (n *Node) Call(ctx context.Context, method, path, body string) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: n.HTTPAddr}
	r, err := http.NewRequestWithContext(ctx, method, u.String()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := n.Client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= http.StatusMultipleChoices {
		err = &Refusal{method + " " + path, res.StatusCode, strings.TrimSpace(string(b))}
	}
	return b, err
}

// LogSize is how much the node has said so far, for Said.
func (n *Node) LogSize() int64 {
	info, err := os.Stat(n.Log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Said is what the node has said since its log was of size from.
func (n *Node) Said(from int64) (string, error) {
	b, err := os.ReadFile(n.Log)
	if err != nil {
		return "", fmt.Errorf("read log %s: %w", filepath.Base(n.Log), err)
	}
	return string(b[min(from, int64(len(b))):]), nil
}
