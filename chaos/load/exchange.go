package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/wire"
)

const (
	// callHeader tells the upstream for which call a request is, and
	// moodHeader how it shall treat that.
	callHeader = "X-Call"
	moodHeader = "X-Mood"
	// TenantHeader says whose a key is; the nodes are told so.
	TenantHeader = "X-Tenant"

	// duplicateResource is a problem that is recorded.
	duplicateResource = "duplicate-resource"

	maxAnswer = 4 << 20
)

// request is what is sent for a call.
type request struct {
	method, url string
	header      http.Header
	body        []byte
}

// exchange sends r, once, and records c with what came of it. ctx does not end
// it: a run that ends waits for its last answers.
func (l *Load) exchange(ctx context.Context, c *history.Call, r request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout+time.Duration(c.Wait))
	defer cancel()
	c.ID = l.ids.Add(1)
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	c.Begin = l.cfg.Clock()
	a, err := l.send(ctx, c, r)
	if err == nil {
		c.End, c.Answer = l.cfg.Clock(), a
		l.answer.Add(1)
	} else {
		c.End, c.Failure = history.Never, err.Error()
		if !sent.Load() {
			c.Failure = check.Unsent
		}
	}
	l.cfg.History.Call(c)
}

func (l *Load) send(ctx context.Context, c *history.Call, r request) (*history.Answer, error) {
	// Behind a plain reader net/http cannot rewind the body, and so does not
	// by itself send the request again.
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, struct{ io.Reader }{bytes.NewReader(r.body)})
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	req.ContentLength = int64(len(r.body))
	if len(r.body) == 0 {
		req.Body = http.NoBody
	}
	maps.Copy(req.Header, r.header)
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Wait > 0 {
		req.Header.Set("Prefer", fmt.Sprintf("wait=%d", int(time.Duration(c.Wait)/time.Second)))
	}
	req.Header.Set(callHeader, strconv.FormatUint(c.ID, 10))
	res, err := l.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errors.New("read answer: it is too long")
	}
	return answerOf(c.Kind, res.StatusCode, res.Header, body)
}

// answerOf reads an answer. What cannot be read counts as none.
func answerOf(kind history.Kind, status int, header http.Header, body []byte) (*history.Answer, error) {
	a := &history.Answer{Status: status, Replayed: header.Get(wire.ReplayedHeader) == "true"}
	if slug, resource := problemIn(header, body); slug != "" {
		a.Problem, a.Resource = slug, resource
		if slug != duplicateResource {
			return a, nil
		}
	}
	switch kind {
	case history.Create, history.Gateway:
		if _, recorded := header[wire.TTLHeader]; recorded || header.Get(wire.TTLHeader) != "" {
			a.Digest, a.Owner = Digest(status, header, body), ownerIn(body)
		}
		if kind == history.Create && status == http.StatusCreated {
			a.Resource = strings.TrimPrefix(header.Get("Location"), "/resources/")
		}
		return a, nil
	case history.Resource:
		if status == http.StatusOK {
			a.Digest, a.Owner = resourceDigest(header, body), ownerIn(body)
		}
		return a, nil
	case history.Renew, history.Release, history.Forget:
		return a, nil
	}
	if status/100 != 2 || len(body) == 0 {
		return a, nil
	}
	return a, readRecord(a, body)
}

// resourceDigest is that of the answer to the create: it has the same body, and
// its Location is where the resource was found.
func resourceDigest(header http.Header, body []byte) string {
	var made struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &made); err != nil {
		return "malformed"
	}
	kept := http.Header{"Location": {"/resources/" + made.ID}, "Content-Type": header["Content-Type"]}
	return Digest(http.StatusCreated, kept, body)
}

// record is what the Key API shows of one, and of a grant.
type record struct {
	State    string          `json:"state"`
	Fence    uint64          `json:"fence"`
	Attempt  int             `json:"attempt"`
	Repeated bool            `json:"repeated"`
	Response *recordedAnswer `json:"response"`
}

type recordedAnswer struct {
	Status     int                 `json:"status"`
	Headers    map[string][]string `json:"headers"`
	Body       *string             `json:"body,omitempty"`
	BodyBase64 *string             `json:"body_base64,omitempty"`
}

func readRecord(a *history.Answer, body []byte) error {
	var r record
	if err := json.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	a.State, a.Fence, a.Attempt, a.Repeated = r.State, r.Fence, r.Attempt, r.Repeated
	if r.Response == nil {
		return nil
	}
	var bytes []byte
	switch {
	case r.Response.Body != nil:
		bytes = []byte(*r.Response.Body)
	case r.Response.BodyBase64 != nil:
		var err error
		if bytes, err = base64.StdEncoding.DecodeString(*r.Response.BodyBase64); err != nil {
			return fmt.Errorf("read recorded body: %w", err)
		}
	}
	a.Digest, a.Owner = Digest(r.Response.Status, r.Response.Headers, bytes), ownerIn(bytes)
	return nil
}

// problemIn returns the slug of a problem of onced, and the resource it names.
func problemIn(header http.Header, body []byte) (slug, resource string) {
	if !strings.HasPrefix(header.Get("Content-Type"), "application/problem+json") {
		return "", ""
	}
	var p struct {
		Type     string `json:"type"`
		Resource string `json:"resource_id"`
	}
	if json.Unmarshal(body, &p) != nil {
		return "", ""
	}
	slug, _ = strings.CutPrefix(p.Type, "urn:onced:")
	return slug, p.Resource
}

// ownerIn returns the key that a response says that it was made for; every
// response of the load says so.
func ownerIn(body []byte) string {
	var b struct {
		Owner string `json:"owner"`
		Data  struct {
			Owner string `json:"owner"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &b) != nil {
		return ""
	}
	return b.Owner + b.Data.Owner
}

// Digest is short for status, kept headers and body of a response.
func Digest(status int, header http.Header, body []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", status)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if wire.KeptHeader(http.CanonicalHeaderKey(name)) {
			fmt.Fprintf(h, "%s: %q\n", http.CanonicalHeaderKey(name), header[name])
		}
	}
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil)[:8])
}
