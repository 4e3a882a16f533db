package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/onced/onced/cluster"
)

func TestTheClusterIsShown(t *testing.T) {
	s := newService(t)
	s.post("claim", "").wants(201)
	s.send("POST", "/create", `{"idempotencyKey":"c","data":1}`).wants(201)
	got := s.send("GET", "/v1/cluster", "").wants(200).body
	want := `{"cluster_id":"0198c0de-0000-7000-8000-000000000001","leader":"n1","term":3,"nodes":[` +
		`{"id":"n1","raft_addr":"127.0.0.1:7001","http_addr":"127.0.0.1:8001","voter":true,"healthy":true,"applied_index":7,"last_contact":"` + startStamp + `","settings_digest":"aa"},` +
		`{"id":"n2","raft_addr":"127.0.0.1:7002","http_addr":"","voter":false,"healthy":false,"applied_index":0,"last_contact":null,"settings_digest":""}],` +
		`"cluster_time":"` + startStamp + `","feature_level":1,"node":"n1","version":"test","records":{"claimed":1,"completed":1,"unknown":0,"resources":1}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAClusterWithoutLeaderOrNodesIsShown(t *testing.T) {
	s := newService(t)
	s.node.status.Leader, s.node.status.Nodes = "", nil
	got := s.send("GET", "/v1/cluster", "").wants(200).json()
	if got["leader"] != "" || len(got["nodes"].([]any)) != 0 {
		t.Errorf("cluster %v", got)
	}
}

func TestTheStateHashTellsReplicasApart(t *testing.T) {
	a, b := newService(t), newService(t)
	hash := func(s *service) any { return s.send("GET", "/v1/cluster/state", "").wants(200).json()["state_hash"] }
	if hash(a) != hash(b) {
		t.Error("equal states have different hashes")
	}
	a.post("claim", "").wants(201)
	if hash(a) == hash(b) {
		t.Error("different states have one hash")
	}
}

func TestNodesAreAddedRemovedAndHandedTheLead(t *testing.T) {
	s := newService(t)
	if got, want := s.send("POST", "/v1/cluster/nodes", `{"id":"n4","raft_addr":"h:1"}`).wants(201).body, `{"id":"n4","raft_addr":"h:1","voter":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.send("POST", "/v1/cluster/nodes", `{"id":"n5","raft_addr":"h:2","voter":false}`).wants(201)
	s.send("DELETE", "/v1/cluster/nodes/n%34", "").wants(204)
	s.send("POST", "/v1/cluster/transfer", `{"to":"n2"}`).wants(204)
	s.send("POST", "/v1/cluster/transfer", ``).wants(204)
	want := []string{"add n4h:1true", "add n5h:2false", "remove n4", "transfer n2", "transfer "}
	if !slices.Equal(s.node.admin, want) {
		t.Errorf("the node was asked %q, want %q", s.node.admin, want)
	}
}

func TestBadMembersOfTheClusterAPIAreRefused(t *testing.T) {
	s := newService(t)
	for _, body := range []string{``, `{}`, `{"id":"n4"}`, `{"raft_addr":"h:1"}`, `{"id":4,"raft_addr":"h:1"}`, `{"id":"n4","raft_addr":"h:1","voter":"yes"}`, `{"id":"n4","raft_addr":"h:1","voter":null}`, `{"id":"n4","raft_addr":"h:1","x":1}`, `{"id":"","raft_addr":"h:1"}`, `{"id":"n4","id":"n4","raft_addr":"h:1"}`, `[]`, `{"id":"` + strings.Repeat("n", 256) + `","raft_addr":"h:1"}`} {
		s.send("POST", "/v1/cluster/nodes", body).wantsProblem(400, "bad-request")
	}
	for _, body := range []string{`{"to":1}`, `{"to":null}`, `{"from":"n1"}`, `{`} {
		s.send("POST", "/v1/cluster/transfer", body).wantsProblem(400, "bad-request")
	}
	if s.node.admin != nil {
		t.Errorf("the node was asked %q", s.node.admin)
	}
}

func TestErrorsOfTheNodeHaveTheirAnswers(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		slug   string
	}{
		{cluster.ErrUnknownNode, 404, "not-found"},
		{cluster.ErrInvalidNode, 400, "bad-request"},
		{cluster.ErrConflict, 409, "conflict"},
		{cluster.ErrUnavailable, 503, "unavailable"},
		{errBroken, 500, "internal"},
	} {
		s := newService(t)
		s.node.err = fmt.Errorf("do it: %w", tt.err)
		if tt.status != 404 {
			s.send("POST", "/v1/cluster/nodes", `{"id":"n4","raft_addr":"h:1"}`).wantsProblem(tt.status, tt.slug)
		}
		if tt.status != 400 {
			s.send("DELETE", "/v1/cluster/nodes/n4", "").wantsProblem(tt.status, tt.slug)
			s.send("POST", "/v1/cluster/transfer", "").wantsProblem(tt.status, tt.slug)
		}
	}
}

func TestABackupIsStreamed(t *testing.T) {
	s := newService(t)
	s.node.backup = bytes.Repeat([]byte("backup"), 100_000)
	if got := s.send("GET", "/v1/backup", "").wants(200).wantsHeader("Content-Type", "application/octet-stream").body; got != string(s.node.backup) {
		t.Errorf("%d bytes came, want %d", len(got), len(s.node.backup))
	}
	s.node.backup, s.node.backupErr = nil, cluster.ErrUnavailable
	s.send("GET", "/v1/backup", "").wantsProblem(503, "unavailable")
}

func TestABackupThatFailsHalfwayBreaksOff(t *testing.T) {
	s := newService(t)
	s.node.backup, s.node.backupErr = bytes.Repeat([]byte("backup"), 100_000), errBroken
	server := httptest.NewServer(s.handler)
	defer server.Close()
	res, err := http.Get(server.URL + "/v1/backup")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("half a backup looks like a whole one")
	}
	if !strings.Contains(s.log.String(), errBroken.Error()) {
		t.Errorf("log:\n%s", s.log)
	}
}

func TestReadiness(t *testing.T) {
	s := newService(t)
	if got := s.send("GET", "/readyz", "").wants(200).body; got != `{"status":"ready"}` {
		t.Errorf("ready is %s", got)
	}
	s.node.notReady = errBroken
	if p := s.send("GET", "/readyz", "").wantsProblem(503, "unavailable"); p["detail"] != errBroken.Error() {
		t.Errorf("problem %v does not say why", p)
	}
	if got := s.send("GET", "/livez", "").wants(200).body; got != `{"status":"live"}` {
		t.Errorf("live is %s", got)
	}
	if s.log.Len() > 0 {
		t.Errorf("log:\n%s", s.log)
	}
}
