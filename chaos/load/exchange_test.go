package load

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onced/onced/chaos/history"
)

const problemType = "application/problem+json"

func TestReadsAnswers(t *testing.T) {
	recorded := http.Header{"Content-Type": {"application/json"}, "Idempotency-Ttl": {"9"}}
	digest := Digest(201, http.Header{"Content-Type": {"application/json"}}, []byte(`{"owner":"t/k"}`))
	record := `{"state":"completed","fence":7,"attempt":2,"response":{"status":201,"headers":{"Content-Type":["application/json"]},`
	for _, test := range []struct {
		name   string
		kind   history.Kind
		status int
		header http.Header
		body   string
		want   history.Answer
	}{
		{"a grant", history.Claim, 201, nil, `{"state":"claimed","fence":3,"attempt":2,"lease_expires_at":"x","repeated":true}`,
			history.Answer{Status: 201, State: "claimed", Fence: 3, Attempt: 2, Repeated: true}},
		{"a record", history.Get, 200, nil, record + `"body":"{\"owner\":\"t/k\"}"}}`,
			history.Answer{Status: 200, State: "completed", Fence: 7, Attempt: 2, Digest: digest, Owner: "t/k"}},
		{"a record in base64", history.Get, 200, nil, record + `"body_base64":"eyJvd25lciI6InQvayJ9"}}`,
			history.Answer{Status: 200, State: "completed", Fence: 7, Attempt: 2, Digest: digest, Owner: "t/k"}},
		{"a gateway's first answer", history.Gateway, 201, recorded, `{"owner":"t/k"}`,
			history.Answer{Status: 201, Digest: digest, Owner: "t/k"}},
		{"an answer that was not recorded", history.Gateway, 503, http.Header{"Retry-After": {"1"}}, `{"owner":"t/k"}`,
			history.Answer{Status: 503}},
		{"a problem", history.Claim, 409, http.Header{"Content-Type": {problemType}}, `{"type":"urn:onced:in-progress"}`,
			history.Answer{Status: 409, Problem: "in-progress"}},
		{"a problem of someone else", history.Claim, 502, http.Header{"Content-Type": {"text/html"}}, `urn:onced:in-progress`,
			history.Answer{Status: 502}},
		{"nothing", history.Release, 204, nil, "", history.Answer{Status: 204}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := answerOf(test.kind, test.status, test.header, []byte(test.body))
			if err != nil || *a != test.want {
				t.Errorf("it reads as %+v, %v; want %+v", a, err, test.want)
			}
		})
	}
}

// What is recorded of a create is a problem at times, and then has a digest.
func TestReadsRecordedProblem(t *testing.T) {
	header := http.Header{"Content-Type": {problemType}, "Idempotency-Ttl": {"9"}, "Idempotent-Replayed": {"true"}}
	a, err := answerOf(history.Create, 409, header, []byte(`{"type":"urn:onced:duplicate-resource","resource_id":"r"}`))
	if err != nil || a.Digest == "" || !a.Replayed || a.Problem != duplicateResource || a.Resource != "r" {
		t.Errorf("it reads as %+v, %v", a, err)
	}
}

// A byte, a status or a kept header makes another digest; all else does not.
func TestDigest(t *testing.T) {
	base := Digest(200, http.Header{"Etag": {"1"}, "Date": {"now"}}, []byte("body"))
	if other := Digest(200, http.Header{"Etag": {"1"}, "Date": {"later"}, "Set-Cookie": {"x"}}, []byte("body")); other != base {
		t.Error("a header that is not kept counts")
	}
	for name, other := range map[string]string{
		"a byte":        Digest(200, http.Header{"Etag": {"1"}}, []byte("bodY")),
		"a status":      Digest(201, http.Header{"Etag": {"1"}}, []byte("body")),
		"a kept header": Digest(200, http.Header{"Etag": {"2"}}, []byte("body")),
	} {
		if other == base {
			t.Errorf("%s does not count", name)
		}
	}
}

// Whatever a broken service answers is read, or refused.
func FuzzAnswer(f *testing.F) {
	f.Add("claim", 200, problemType, `{"type":"urn:onced:in-progress"}`)
	f.Add("get", 200, "application/json", `{"state":"completed","response":{"status":200,"body_base64":"!"}}`)
	f.Add("resource", 200, "application/json", `{"id":7}`)
	f.Fuzz(func(t *testing.T, kind string, status int, mediaType, body string) {
		a, err := answerOf(history.Kind(kind), status, http.Header{"Content-Type": {mediaType}, "Idempotency-Ttl": {"1"}}, []byte(body))
		if err == nil && a.Status != status {
			t.Errorf("status %d reads as %d", status, a.Status)
		}
	})
}

// The file that nodes are started with and the routes of a node in this process
// say the same.
func TestNodeConfigHasTheRoutes(t *testing.T) {
	file := NodeConfig()
	for _, r := range Routes() {
		for _, want := range []string{fmt.Sprintf("path: %q", r.Path), "on-lapse: " + r.OnLapse, "ttl: " + r.TTL.String(), fmt.Sprintf("namespace: %q", r.Namespace)} {
			if !strings.Contains(file, want) {
				t.Errorf("%s is missing:\n%s", want, file)
			}
		}
	}
}
