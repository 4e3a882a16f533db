package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// standIn is a node that answers every request alike and keeps the last one.
type standIn struct {
	*httptest.Server
	status int
	answer string
	got    string // method, path with query, and body of the last request
}

func newStandIn(t *testing.T, status int, answer string) *standIn {
	t.Helper()
	s := &standIn{status: status, answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.got = strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body))
		w.WriteHeader(s.status)
		io.WriteString(w, s.answer)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) addr() string { return s.Listener.Addr().String() }

// onced runs a command against the stand-in.
func (s *standIn) onced(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	var out, stderr bytes.Buffer
	err = run(t.Context(), append(args, "--addr", s.addr()), strings.NewReader(stdin), &out, &stderr)
	if stderr.Len() > 0 {
		t.Errorf("stderr: %q", &stderr)
	}
	return out.String(), err
}

func TestEachCommandIsOneCall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStandIn(t, 200, `{}`)
	for line, want := range map[string]string{
		"key claim k": `POST /v1/keys/k/claim {}`,
		"key claim k --fingerprint f --attempt-id a --lease 30s --ttl 24h --on-lapse block": `POST /v1/keys/k/claim {"attempt_id":"a","fingerprint":"f","lease":"30s","on_lapse":"block","ttl":"24h0m0s"}`,
		"key claim a/b?c%d":                        `POST /v1/keys/a%2Fb%3Fc%25d/claim {}`,
		"key renew k --fence 7":                    `POST /v1/keys/k/renew {"fence":7}`,
		"key renew k --fence 7 --lease 1m":         `POST /v1/keys/k/renew {"fence":7,"lease":"1m0s"}`,
		"key complete k --fence 7 --status 201":    `POST /v1/keys/k/complete {"fence":7,"response":{"status":201}}`,
		"key release k --fence 7":                  `POST /v1/keys/k/release {"fence":7}`,
		"key fail k --fence 7":                     `POST /v1/keys/k/fail {"fence":7}`,
		"key resolve k --retry":                    `POST /v1/keys/k/resolve {"retry":true}`,
		"key resolve k --status 200 --fence 7":     `POST /v1/keys/k/resolve {"fence":7,"response":{"status":200}}`,
		"key get k":                                `GET /v1/keys/k`,
		"key get k --local":                        `GET /v1/keys/k?consistency=local`,
		"key list":                                 `GET /v1/keys?limit=100`,
		"key resolve k --retry --fence 0":          `POST /v1/keys/k/resolve {"fence":0,"retry":true}`,
		"key claim k --lease 0s --ttl 0s":          `POST /v1/keys/k/claim {"lease":"0s","ttl":"0s"}`,
		"key forget k --fence 0":                   `DELETE /v1/keys/k?fence=0`,
		"key forget k":                             `DELETE /v1/keys/k`,
		"key forget k --fence 7 --force":           `DELETE /v1/keys/k?fence=7&force=true`,
		"key resolve k --retry --namespace a:b":    `POST /v1/keys/k/resolve?namespace=a%3Ab {"retry":true}`,
		"key resolve k --status 200 --namespace a": `POST /v1/keys/k/resolve?namespace=a {"response":{"status":200}}`,
		"key get k --local --namespace a":          `GET /v1/keys/k?consistency=local&namespace=a`,
		"key list --namespace a":                   `GET /v1/keys?limit=100&namespace=a`,
		"key forget k --fence 7 --namespace a":     `DELETE /v1/keys/k?fence=7&namespace=a`,
		"key forget k --namespace=":                `DELETE /v1/keys/k?namespace=`,
		"node add n4 127.0.0.1:7004":               `POST /v1/cluster/nodes {"id":"n4","raft_addr":"127.0.0.1:7004","voter":true}`,
		"node add n4 127.0.0.1:7004 --nonvoter":    `POST /v1/cluster/nodes {"id":"n4","raft_addr":"127.0.0.1:7004","voter":false}`,
		"node remove n4":                           `DELETE /v1/cluster/nodes/n4`,
		"node transfer":                            `POST /v1/cluster/transfer {}`,
		"node transfer n2":                         `POST /v1/cluster/transfer {"to":"n2"}`,
		"node list":                                `GET /v1/cluster`,
		"status --wait 1s":                         `GET /v1/cluster`,
		"key complete k --fence 7 --status 200 --header Content-Type:text/plain --header Link:a --header Link:b --body hello": `POST /v1/keys/k/complete {"fence":7,"response":{"body":"hello","headers":{"Content-Type":["text/plain"],"Link":["a","b"]},"status":200}}`,
		"key complete k --fence 7 --status 200 --body @-":                                                                     `POST /v1/keys/k/complete {"fence":7,"response":{"body_base64":"/w==","status":200}}`,
		"key complete k --fence 7 --status 200 --body @" + file:                                                               `POST /v1/keys/k/complete {"fence":7,"response":{"body":"from a file","status":200}}`,
		"key list --state claimed --prefix a --after b --limit 9":                                                             `GET /v1/keys?after=b&limit=9&prefix=a&state=claimed`,
	} {
		if _, err := s.onced(t, "\xff", strings.Fields(line)...); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if s.got != want {
			t.Errorf("%s:\n got %s\nwant %s", line, s.got, want)
		}
	}
}

func TestWhatIsNotTextIsNotSentAsOtherText(t *testing.T) {
	s := newStandIn(t, 201, `{}`)
	for _, args := range [][]string{
		{"key", "claim", "k", "--fingerprint", "a\xff"},
		{"key", "claim", "k", "--attempt-id", "a\xff"},
		{"key", "complete", "k", "--fence", "1", "--status", "200", "--body", "\xff"},
	} {
		if _, err := s.onced(t, "", args...); err == nil || !strings.Contains(err.Error(), "UTF-8") || s.got != "" {
			t.Errorf("%q: error %v, sent %q", args, err, s.got)
		}
	}
}

func TestAnswersArePrintedIndented(t *testing.T) {
	s := newStandIn(t, 200, `{"state":"claimed","fence":7}`)
	out, err := s.onced(t, "", "key", "get", "k")
	if want := "{\n  \"state\": \"claimed\",\n  \"fence\": 7\n}\n"; err != nil || out != want {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestTheClientCommandsDoNotTakeTheServersEnvironment(t *testing.T) {
	t.Setenv("ONCED_TTL", "1h")
	t.Setenv("ONCED_LEASE", "1m")
	s := newStandIn(t, 201, `{}`)
	if _, err := s.onced(t, "", "key", "claim", "k"); err != nil || s.got != `POST /v1/keys/k/claim {}` {
		t.Errorf("got %s, %v", s.got, err)
	}
}

func TestAProblemIsTheErrorInOneLine(t *testing.T) {
	for name, tc := range map[string]struct {
		status       int
		answer, want string
	}{
		"problem":      {409, `{"type":"urn:onced:in-progress","title":"T","status":409,"detail":"D"}`, "in-progress: D (409)"},
		"no detail":    {503, `{"type":"urn:onced:unavailable","title":"T"}`, "unavailable: T (503)"},
		"two lines":    {400, `{"type":"urn:onced:bad-request","detail":"a\nb"}`, "bad-request: a; b (400)"},
		"no problem":   {502, `<html>`, "the node answered 502 Bad Gateway"},
		"a redirect":   {302, ``, "the node answered 302 Found"},
		"another JSON": {404, `[]`, "the node answered 404 Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStandIn(t, tc.status, tc.answer)
			out, err := s.onced(t, "", "key", "get", "k")
			if err == nil || oneLine(err) != tc.want || out != "" {
				t.Errorf("got %v, stdout %q, want %q", err, out, tc.want)
			}
		})
	}
}

func TestTheFirstNodeThatCanBeReachedIsAsked(t *testing.T) {
	s := newStandIn(t, 200, `{}`)
	if _, err := s.onced(t, "", "key", "get", "k", "--addr", "127.0.0.1:1"); err != nil || s.got != "GET /v1/keys/k" {
		t.Errorf("got %q, %v", s.got, err)
	}
}

func TestAnAnswerOfTheFirstNodeIsFinal(t *testing.T) {
	first, second := newStandIn(t, 503, `{}`), newStandIn(t, 200, `{}`)
	if _, err := first.onced(t, "", "key", "release", "k", "--fence", "1", "--addr", second.addr()); err != nil {
		t.Errorf("the other node was not asked first: %v", err)
	}
	if _, err := second.onced(t, "", "key", "release", "k", "--fence", "1", "--addr", first.addr()); err == nil {
		t.Error("a 503 went to the next node")
	}
}

func TestANodeThatDoesNotAnswerInTimeIsSaid(t *testing.T) {
	blocked := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-blocked }))
	defer s.Close()
	defer close(blocked)
	addr := s.Listener.Addr().String()
	err := run(t.Context(), []string{"status", "--timeout", "50ms", "--addr", addr}, nil, io.Discard, io.Discard)
	if err == nil || err.Error() != addr+" gave no answer in time" {
		t.Errorf("got %v", err)
	}
}

func TestStatusIsATable(t *testing.T) {
	s := newStandIn(t, 200, `{"cluster_id":"c","leader":"n2","term":3,"nodes":[
		{"id":"n1","raft_addr":"a","http_addr":"127.0.0.1:8001","voter":true,"healthy":true,"applied_index":120},
		{"id":"n2","raft_addr":"b","http_addr":"127.0.0.1:8002","voter":true,"healthy":true,"applied_index":121},
		{"id":"n3","raft_addr":"c","http_addr":"","voter":true,"healthy":false,"applied_index":0},
		{"id":"n4","raft_addr":"d","http_addr":"127.0.0.1:8004","voter":false,"healthy":true,"applied_index":9}]}`)
	out, err := s.onced(t, "", "status")
	want := `NODE  ROLE      TERM  APPLIED  HEALTHY  HTTP
n1    follower  3     120      yes      127.0.0.1:8001
n2    leader    3     121      yes      127.0.0.1:8002
n3    follower  3     0        no       -
n4    nonvoter  3     9        yes      127.0.0.1:8004
`
	if err != nil || out != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, out, want)
	}
	out, err = s.onced(t, "", "status", "--json")
	if err != nil || !strings.Contains(out, `"cluster_id": "c"`) {
		t.Errorf("--json: %v, %s", err, out)
	}
}

func TestStatusWaitSaysWhatItWaitedFor(t *testing.T) {
	s := newStandIn(t, 503, `{"type":"urn:onced:unavailable","detail":"still forming"}`)
	_, err := s.onced(t, "", "status", "--wait", "1s")
	if want := s.addr() + " is not ready after 1s: unavailable: still forming (503)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// sealed is content as a backup ends: with its checksum.
func sealed(content string) string {
	sum := sha256.Sum256([]byte(content))
	return content + string(sum[:])
}

func TestABackupIsWrittenWholeOrNotAtAll(t *testing.T) {
	content := sealed(strings.Repeat("backup ", 20_000))
	for name, tc := range map[string]struct{ answer, want string }{
		"whole":       {content, ""},
		"cut short":   {content[:len(content)-1], "checksum is wrong"},
		"damaged":     {"B" + content[1:], "checksum is wrong"},
		"empty":       {"", "checksum is wrong"},
		"nearly none": {"x", "checksum is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStandIn(t, 200, tc.answer)
			dir := t.TempDir()
			path := filepath.Join(dir, "onced.backup")
			out, err := s.onced(t, "", "backup", path)
			files, _ := os.ReadDir(dir)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) || len(files) != 0 || out != "" {
					t.Errorf("got %v, stdout %q, files %v", err, out, files)
				}
				return
			}
			got, readErr := os.ReadFile(path)
			if err != nil || readErr != nil || string(got) != tc.answer || len(files) != 1 {
				t.Errorf("got %v, %v, %d bytes, files %v", err, readErr, len(got), files)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode: %v, %v", info, err)
			}
		})
	}
}

func TestAFailedBackupLeavesTheFormerOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "onced.backup")
	if err := os.WriteFile(path, []byte("former"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStandIn(t, 200, "damaged")
	if _, err := s.onced(t, "", "backup", path, "--force"); err == nil {
		t.Error("a damaged backup was taken")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "former" {
		t.Errorf("got %q, %v", got, err)
	}
	s.answer = sealed("newer")
	if _, err := s.onced(t, "", "backup", path, "--force"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != s.answer {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestABackupMayGoToStandardOutput(t *testing.T) {
	s := newStandIn(t, 200, sealed("content"))
	if out, err := s.onced(t, "", "backup", "-"); err != nil || out != s.answer {
		t.Errorf("got %q, %v", out, err)
	}
}
