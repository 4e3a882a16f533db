package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// call sends a request to node i. headers are names and values in turn.
func (c *processes) call(i int, method, path, body string, headers ...string) answer {
	c.t.Helper()
	r, err := http.NewRequest(method, "http://"+c.nodes[i].http+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for h := 0; h < len(headers); h += 2 {
		r.Header.Add(headers[h], headers[h+1])
	}
	res, err := client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{res.StatusCode, string(b), res.Header.Get("Idempotent-Replayed") == "true"}
}

// metrics returns what node i shows: the values of each name, summed up.
func (c *processes) metrics(i int) map[string]float64 {
	c.t.Helper()
	values := map[string]float64{}
	for _, line := range strings.Split(c.call(i, "GET", "/metrics", "").body, "\n") {
		name, value, ok := strings.Cut(line, " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			c.t.Fatalf("metric %q: %v", line, err)
		}
		bare, _, _ := strings.Cut(name, "{")
		values[bare] += v
		if bare != name {
			values[name] = v
		}
	}
	return values
}

func TestTheMetricsAreThoseOfTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`(onced_[a-z_]+)").FindAllStringSubmatch(string(manual), -1) {
		documented[m[1]] = true
	}
	c := startProcesses(t, 1)
	c.mustCreate(0, "k", "1")
	shown := map[string]bool{}
	for _, m := range regexp.MustCompile(`# TYPE (onced_[a-z_]+) `).FindAllStringSubmatch(c.call(0, "GET", "/metrics", "").body, -1) {
		shown[m[1]] = true
		if !documented[m[1]] {
			t.Errorf("%s is not in docs/operating.md", m[1])
		}
	}
	for name := range documented {
		if !shown[name] {
			t.Errorf("docs/operating.md names %s, which no node shows", name)
		}
	}
}

func TestTheMetricsMove(t *testing.T) {
	c := startProcesses(t, 3)
	// Who leads may change at any time: what counts is the cluster's sum.
	sum := func() map[string]float64 {
		all := map[string]float64{}
		for i := range c.nodes {
			for name, value := range c.metrics(i) {
				all[name] += value
			}
		}
		return all
	}
	before := sum()
	moves := func(name string) {
		t.Helper()
		c.eventually(name+" to move", func() bool { return sum()[name] > before[name] })
	}
	for i := range c.nodes {
		c.mustCreate(i, fmt.Sprint("created-", i), "1")
		c.call(i, "POST", fmt.Sprintf("/v1/keys/lapses-%d/claim", i), `{"lease":"100ms","on_lapse":"block"}`)
		c.call(i, "POST", fmt.Sprintf("/v1/keys/stands-%d/claim", i), `{"lease":"1h"}`)
	}
	for _, name := range []string{
		"onced_http_requests_total", "onced_http_request_seconds_count",
		`onced_claims_total{outcome="created",surface="create"}`, `onced_claims_total{outcome="granted",surface="keys"}`,
		"onced_forward_seconds_count", "onced_commit_seconds_count", "onced_queue_seconds_count", "onced_log_write_seconds_count", "onced_replicate_seconds_count",
		"onced_batch_commands_count", "onced_apply_seconds_count",
		"onced_applied_index", "onced_expired_total", "onced_resources",
		`onced_records{state="claimed"}`, `onced_records{state="completed"}`, `onced_records{state="unknown"}`,
	} {
		moves(name)
	}
	// A node answers by itself once it has applied the create.
	c.eventually("a replay from a node's own state", func() bool {
		c.mustCreate(0, "created-1", "1")
		return sum()["onced_local_replays_total"] > before["onced_local_replays_total"]
	})
	moves(`onced_claims_total{outcome="replay",surface="create"}`)
	c.eventually("one leader and three nodes that are ready", func() bool {
		now := sum()
		return now["onced_is_leader"] == 1 && now["onced_ready"] == 3 && now["onced_store_bytes"] > 0
	})
	c.eventually("leadership to be handed on", func() bool { return c.call(0, "POST", "/v1/cluster/transfer", "").status == http.StatusNoContent })
	moves("onced_leader_changes_total")
	moves("onced_raft_term")
}

func TestTheLogTellsNoKeyBodyOrToken(t *testing.T) {
	c := startProcesses(t, 3, "--log-level", "debug", "--request-timeout", "1s")
	token := []string{"Authorization", "Bearer secret-token"}
	for _, body := range []string{`{"idempotencyKey":"secret-key","data":"secret-data"}`, `{"idempotencyKey":"secret key","data":1}`, `{"secret-member":1}`, `secret`} {
		c.call(0, "POST", "/create", body, token...)
	}
	for _, path := range []string{"/v1/keys/secret-key", "/v1/keys/secret%20key", "/secret-path", "/v1/keys?prefix=secret", "/v1/keys?secret=1", "/resources/secret"} {
		c.call(0, "GET", path, "", token...)
	}
	for _, bytes := range []string{
		"POST /create HTTP/1.1\r\nHost: secret\r\nIdempotency-Key: secret\x00\r\n\r\n",
		"POST /create HTTP/1.1\r\nHost: x\r\nAuthorization: secret\r\nContent-Length: 9\r\n\r\nsecret", // and hangs up
	} {
		conn, err := net.Dial("tcp", c.nodes[0].http)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, bytes); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			res.Body.Close()
		}
		conn.Close()
	}
	c.kill(1)
	c.kill(2)
	if a := c.call(0, "POST", "/v1/keys/secret-other/claim", `{"fingerprint":"secret-data"}`, token...); a.status != http.StatusServiceUnavailable {
		t.Fatalf("without a majority: %+v", a)
	}
	c.eventually("the failure to be logged", func() bool { return strings.Contains(c.nodes[0].log.String(), `problem=unavailable key=`) })
	for _, p := range c.nodes {
		for _, line := range strings.Split(p.log.String(), "\n") {
			if strings.Contains(line, "secret") {
				t.Errorf("%s logs %s", p.id, line)
			}
		}
	}
}

func TestFiftyClientsWithOneKeyOnThreeNodesRunItOnce(t *testing.T) {
	c := startProcesses(t, 3)
	all := func(call func(i int) answer) (answers []answer) {
		answers = make([]answer, 50)
		var wg sync.WaitGroup
		for n := range answers {
			wg.Go(func() { answers[n] = call(n % 3) })
		}
		wg.Wait()
		return answers
	}
	first := 0
	created := all(func(i int) answer { return c.call(i, "POST", "/create", `{"idempotencyKey":"k","data":1}`) })
	for _, a := range created {
		if a.status != http.StatusCreated || a.body != created[0].body {
			t.Errorf("created %+v, another got %s", a, created[0].body)
		}
		if !a.replayed {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d first runs of a create, want 1", first)
	}
	granted := ""
	for _, a := range all(func(i int) answer { return c.call(i, "POST", "/v1/keys/held/claim", "") }) {
		switch {
		case a.status == http.StatusCreated && granted == "":
			granted = a.body
		case a.status != http.StatusConflict || !strings.Contains(a.body, "in-progress"):
			t.Errorf("claimed %+v, after the grant %s", a, granted)
		}
	}
	fence := regexp.MustCompile(`"fence":(\d+)`).FindStringSubmatch(granted)
	if fence == nil {
		t.Fatalf("grant %q", granted)
	}
	// Those who wait, on whatever node, are all answered by one completion.
	completed := make(chan answer, 1)
	go func() {
		completed <- c.call(1, "POST", "/v1/keys/held/complete", fmt.Sprintf(`{"fence":%s,"response":{"status":200,"body":"done"}}`, fence[1]))
	}()
	for _, a := range all(func(i int) answer { return c.call(i, "POST", "/v1/keys/held/claim", "", "Prefer", "wait=30") }) {
		if a.status != http.StatusOK || !a.replayed || !strings.Contains(a.body, `"body":"done"`) {
			t.Errorf("a waiter got %+v", a)
		}
	}
	if a := <-completed; a.status != http.StatusOK {
		t.Errorf("completed %+v", a)
	}
}

func TestClientsLeaveHalfOfTheFilesToTheStore(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	// With a gateway there are those of the API, of the gateway, and to upstreams.
	for addr, kinds := range map[string]uint64{"": 1, "127.0.0.1:9001": 3} {
		c := serveCmd{gatewayFlags: gatewayFlags{GatewayAddr: addr}}
		if n := c.maxConnections(); n < 1 || kinds*uint64(n) > max(files.Cur/2, kinds) || n > 16384 {
			t.Errorf("%d connections of %d kinds with %d files", n, kinds, files.Cur)
		}
	}
}
