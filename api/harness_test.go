package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onced/onced/cluster"
	"github.com/onced/onced/fsm"
)

var _ Cluster = (*cluster.Node)(nil)

// node is a cluster of one without a log: a real machine, each command an entry
// of its own, and a clock that tests set.
type node struct {
	machine *fsm.Machine

	mu       sync.Mutex
	now      int64
	index    uint64
	requests byte
	changed  chan struct{} // closed and replaced by every entry
	began    int           // calls of Begin

	// What the next calls answer with instead.
	err       error
	notReady  error
	status    cluster.ClusterStatus
	admin     []string
	backup    []byte
	backupErr error
	// inBegin, if set, is called in Begin before anything else.
	inBegin func()
}

const startTime = 1_700_000_000_000

func newNode(t testing.TB) *node {
	t.Helper()
	machine, err := fsm.Open(fsm.NewMem())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{machine: machine, now: startTime, changed: make(chan struct{}), backup: []byte("backup")}
	n.status = cluster.ClusterStatus{
		Answered: "n1", ClusterID: "0198c0de-0000-7000-8000-000000000001", Leader: "n1", Term: 3,
		Nodes: []cluster.NodeStatus{
			{ID: "n1", RaftAddr: "127.0.0.1:7001", HTTPAddr: "127.0.0.1:8001", Voter: true, Healthy: true, AppliedIndex: 7, LastContact: time.UnixMilli(startTime), SettingsDigest: "aa"},
			{ID: "n2", RaftAddr: "127.0.0.1:7002"},
		},
		ClusterTime: time.UnixMilli(startTime), FeatureLevel: 1,
	}
	bind := &fsm.Command{
		Kind: fsm.Kind_BIND, ClusterId: []byte("test"),
		Members: []*fsm.Member{{Id: "n1", RaftAddr: "127.0.0.1:7001", Incarnation: bytes.Repeat([]byte{1}, 16)}},
	}
	if o := n.apply(bind); o.Code != fsm.Code_OK {
		t.Fatalf("bind: %v %s", o.Code, o.Reason)
	}
	return n
}

func (n *node) apply(c *fsm.Command) *fsm.Outcome {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.RequestId == nil {
		n.requests++
		c.RequestId = bytes.Repeat([]byte{n.requests}, 16)
	}
	command, err := c.MarshalVT()
	if err != nil {
		panic(err)
	}
	n.index++
	applied, err := n.machine.Apply([]fsm.LogEntry{{Index: n.index, Term: 1, Data: fsm.EncodeEntry(n.now, [][]byte{command})}})
	if err != nil {
		panic(err)
	}
	close(n.changed)
	n.changed = make(chan struct{})
	return applied.Outcomes[0][0]
}

// advance moves cluster time on.
func (n *node) advance(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now += d.Milliseconds()
}

func (n *node) Begin(ctx context.Context, c *fsm.Command, wait time.Duration) (*fsm.Outcome, error) {
	if n.inBegin != nil {
		n.inBegin()
	}
	n.began++
	if n.err != nil {
		return nil, n.err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.RequestId = nil
		o := n.apply(c)
		if o.Code != fsm.Code_IN_FLIGHT || wait == 0 {
			return o, nil
		}
		// Only tests whose other entries come later let requests wait.
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			return o, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (n *node) Propose(_ context.Context, c *fsm.Command) (*fsm.Outcome, error) {
	if n.err != nil {
		return nil, n.err
	}
	return n.apply(c), nil
}

func (n *node) Barrier(context.Context) error { return n.err }

func (n *node) Lookup(namespace, key string) (*fsm.Record, error) {
	return n.machine.Lookup(namespace, key)
}

func (n *node) List(namespace string, q fsm.ListQuery) ([]fsm.Listed, bool, error) {
	return n.machine.List(namespace, q)
}

func (n *node) Resource(namespace, id string) (*fsm.Resource, error) {
	return n.machine.Resource(namespace, id)
}

func (n *node) Resources(namespace, after string, limit int) ([]fsm.ListedResource, bool, error) {
	return n.machine.Resources(namespace, after, limit)
}

func (n *node) Meta() *fsm.Meta         { return n.machine.Meta() }
func (n *node) Hash() ([32]byte, error) { return n.machine.Hash() }

func (n *node) Now() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *node) Status(context.Context) (cluster.ClusterStatus, error) { return n.status, n.err }
func (n *node) Ready() error                                          { return n.notReady }

func (n *node) AddNode(_ context.Context, id, addr string, voter bool) error {
	n.admin = append(n.admin, fmt.Sprint("add ", id, addr, voter))
	return n.err
}

func (n *node) RemoveNode(_ context.Context, id string) error {
	n.admin = append(n.admin, "remove "+id)
	return n.err
}

func (n *node) Transfer(_ context.Context, to string) error {
	n.admin = append(n.admin, "transfer "+to)
	return n.err
}

func (n *node) Backup(_ context.Context, w io.Writer) error {
	if len(n.backup) > 0 {
		if _, err := w.Write(n.backup); err != nil {
			return err
		}
	}
	return n.backupErr
}

// service is the API over a node. Every answer it gives to a test, and every
// request that it took, is held against openapi.yaml.
type service struct {
	t       testing.TB
	node    *node
	handler http.Handler
	log     *bytes.Buffer
	ids     int
	// unchecked leaves openapi.yaml out of it, which takes most of the time.
	unchecked bool
}

func newService(t testing.TB, change ...func(*Config)) *service {
	t.Helper()
	s := &service{t: t, node: newNode(t), log: new(bytes.Buffer)}
	cfg := Config{
		Cluster: s.node, Version: "test",
		Log: slog.New(slog.NewTextHandler(s.log, nil)),
		NewID: func() string {
			s.ids++
			return fmt.Sprintf("0198c0de-0000-7000-8000-%012d", s.ids)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if s.handler, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// answer is what came back.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// send sends a request. headers are names and values in turn.
func (s *service) send(method, path, body string, headers ...string) *answer {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Content-Type" {
			r.Header.Del("Content-Type")
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	a := s.serve(r)
	if a.status < 300 {
		s.checkRequestDocumented(r, body)
	}
	return a
}

func (s *service) serve(r *http.Request) *answer {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	header := http.Header{}
	for name, values := range w.Result().Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	a := &answer{s.t, w.Code, header, w.Body.String()}
	s.checkDocumented(r, a)
	return a
}

func (a *answer) wants(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

// wantsProblem checks for a problem of that type, and returns it.
func (a *answer) wantsProblem(status int, slug string) map[string]any {
	a.t.Helper()
	a.wants(status)
	var p map[string]any
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		a.t.Fatalf("problem %q: %v", a.body, err)
	}
	if p["type"] != "urn:onced:"+slug || p["status"] != float64(status) || p["title"] == "" || p["detail"] == "" {
		a.t.Fatalf("problem %s, want type %s with status %d, title and detail", a.body, slug, status)
	}
	if _, ok := p["retryable"].(bool); !ok {
		a.t.Fatalf("problem %s does not say whether it is retryable", a.body)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Fatalf("problem with media type %q", got)
	}
	return p
}

// wantsHeader checks a header; "" is for one that is not there.
func (a *answer) wantsHeader(name, value string) *answer {
	a.t.Helper()
	if got := a.header.Get(name); got != value {
		a.t.Fatalf("%s: %q, want %q", name, got, value)
	}
	return a
}

// json returns the body, decoded.
func (a *answer) json() map[string]any {
	a.t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("body %q: %v", a.body, err)
	}
	return v
}

// fence returns the fence that was granted.
func (a *answer) fence() int {
	a.t.Helper()
	f, ok := a.wants(http.StatusCreated).json()["fence"].(float64)
	if !ok {
		a.t.Fatalf("no fence in %s", a.body)
	}
	return int(f)
}

var errBroken = errors.New("the disk is on fire")
