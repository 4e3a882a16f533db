package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// answer is what a client saw: nil if no answer came.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	problem  string // the slug of its type
	replayed bool
}

// recorder takes an answer.
type recorder struct {
	status int
	header http.Header
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// request is one request to a node.
type request struct {
	method, path string
	body         any
	key          string // the header Idempotency-Key
	prefer       string
}

func keyPath(key, verb string) string {
	p := "/v1/keys/" + url.PathEscape(key)
	if verb != "" {
		p += "/" + verb
	}
	return p
}

// send has the process that is up on h answer r. It returns nil if there is
// none, if it dies meanwhile, or if the client does not wait any longer.
func (w *world) send(h *host, r request) *answer {
	p := h.up()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	var body []byte
	if r.body != nil {
		body, _ = json.Marshal(r.body) // of maps and strings
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://"+h.name+r.path, bytes.NewReader(body))
	if err != nil {
		w.violate("the client cannot make a request: %v", err)
		return nil
	}
	req.RequestURI = r.path
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if r.prefer != "" {
		req.Header.Set("Prefer", r.prefer)
	}
	rec := &recorder{header: http.Header{}}
	done := make(chan struct{})
	if !p.take() {
		return nil
	}
	w.running.Go(func() {
		defer close(done)
		defer p.inHand.Done()
		p.handler.ServeHTTP(rec, req)
	})
	select {
	case <-done:
	case <-p.dead:
		return nil
	case <-ctx.Done():
		return nil
	}
	select {
	case <-p.dead: // it came too late to be sent
		return nil
	default:
	}
	a := &answer{status: rec.status, header: rec.header, body: rec.body.Bytes(), replayed: rec.header.Get("Idempotent-Replayed") == "true"}
	if strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
		var problem struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(a.body, &problem); err != nil {
			w.violate("a problem is not JSON: %s", a.body)
		}
		a.problem = strings.TrimPrefix(problem.Type, "urn:onced:")
	}
	return a
}

// record is a record, or a grant, as the Key API shows it.
type record struct {
	State    string `json:"state"`
	Fence    uint64 `json:"fence"`
	Attempt  int    `json:"attempt"`
	Repeated bool   `json:"repeated"`
	Response *struct {
		Status int    `json:"status"`
		Body   string `json:"body"`
	} `json:"response"`
}

func (w *world) record(a *answer) (r record) {
	if err := json.Unmarshal(a.body, &r); err != nil {
		w.violate("an answer is not JSON: %s", a.body)
	}
	return r
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }
