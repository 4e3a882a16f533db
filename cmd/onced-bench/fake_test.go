package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// fake is the service as far as the load tool can see it. A test bends single
// answers by setting bend, which may write one and return true.
type fake struct {
	addr string
	bend func(w http.ResponseWriter, r *http.Request, body []byte) bool

	mu       sync.Mutex
	requests map[string]string // key to first request
	answers  map[string]string // key to answer
	fences   map[string]int    // key to fence of a claim
	bad      []string          // requests that no client should send
}

// newFake starts a service.
func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{requests: map[string]string{}, answers: map[string]string{}, fences: map[string]int{}}
	f.addr, _ = serve(t, f.serveHTTP)
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, bad := range f.bad {
			t.Error(bad)
		}
	})
	return f
}

func (f *fake) serveHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || !json.Valid(body) {
		f.bad = append(f.bad, fmt.Sprintf("%s %s %q, error %v", r.Method, r.URL, body, err))
	}
	if f.bend != nil && f.bend(w, r, body) {
		return
	}
	switch path := strings.Split(r.URL.Path, "/"); {
	case r.URL.Path == "/create":
		f.create(w, body)
	case len(path) == 5 && path[4] == "claim":
		f.claim(w, path[3])
	case len(path) == 5 && path[4] == "complete":
		f.complete(w, path[3], body)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (f *fake) create(w http.ResponseWriter, body []byte) {
	var request struct {
		IdempotencyKey string
		Data           json.RawMessage
	}
	if err := json.Unmarshal(body, &request); err != nil {
		f.bad = append(f.bad, err.Error())
	}
	key := request.IdempotencyKey
	if _, seen := f.requests[key]; !seen {
		f.requests[key] = string(body)
		f.answers[key] = fmt.Sprintf(`{"id":"00000000-0000-4000-8000-%012d","data":%s}`, len(f.answers), request.Data)
	} else {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	if f.requests[key] != string(body) {
		f.bad = append(f.bad, fmt.Sprintf("key %s with %q and %q", key, f.requests[key], body))
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprint(w, f.answers[key])
}

func (f *fake) claim(w http.ResponseWriter, key string) {
	if f.fences[key] != 0 {
		f.bad = append(f.bad, "claimed twice: "+key)
	}
	f.fences[key] = len(f.fences) + 1
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"state":"claimed","fence":%d,"attempt":1,"lease_expires_at":"2026-01-01T00:00:00Z","repeated":false}`, f.fences[key])
}

func (f *fake) complete(w http.ResponseWriter, key string, body []byte) {
	var request struct {
		Fence    int
		Response struct {
			Status int
			Body   string
		}
	}
	if err := json.Unmarshal(body, &request); err != nil {
		f.bad = append(f.bad, err.Error())
	}
	if request.Fence != f.fences[key] {
		w.WriteHeader(http.StatusConflict)
		return
	}
	fmt.Fprintf(w, `{"key":%q,"namespace":"default","state":"completed","fence":%d,"attempt":1,"response":{"status":%d,"body":%q}}`,
		key, request.Fence, request.Response.Status, request.Response.Body)
}
