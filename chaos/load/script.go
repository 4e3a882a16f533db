package load

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/history"
)

// apiNamespace is that of every caller of the API without a credential.
const apiNamespace = "default"

// maxTries is how many nodes a client asks before it gives up on a call.
const maxTries = 4

// script is what happens to one key. Its clients are goroutines of its own.
type script struct {
	*Load
	ctx    context.Context
	chance *dice
	client int
	key    string

	// What is needed to ask for the key again.
	kind   history.Kind
	data   string // create
	pad    string // in it
	policy string
	lease  time.Duration
	ttl    time.Duration
	tenant string
}

// pause is the time between two calls of a client. It ends with the load.
func (s *script) pause() { s.sleep(s.chance.some(s.cfg.Pause)) }

func (s *script) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

func (s *script) over() bool { return s.ctx.Err() != nil }

// together has n clients do something at once.
func together(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

func (s *script) anyNode() int { return s.chance.below(len(s.cfg.Nodes)) }

// unsettled reports whether a client that got this answer tries elsewhere.
func unsettled(c *history.Call) bool {
	return c.Ambiguous() || c.Is("overloaded") || c.Is("upstream-unreachable")
}

// elsewhere makes a call, and makes it again at the next nodes until one has an
// answer. make returns the call, which may not be sent twice, and how.
func (s *script) elsewhere(make func(node Node) (*history.Call, request)) *history.Call {
	for try, node := 0, s.anyNode(); ; try, node = try+1, node+1 {
		c, r := make(s.cfg.Nodes[node%len(s.cfg.Nodes)])
		s.exchange(s.ctx, c, r)
		if !unsettled(c) || try+1 == maxTries || s.over() {
			return c
		}
		s.pause()
	}
}

// at makes a call at one node, once.
func (s *script) at(node Node, make func(node Node) (*history.Call, request)) *history.Call {
	c, r := make(node)
	s.exchange(s.ctx, c, r)
	return c
}

func (s *script) newCall(kind history.Kind, node Node) *history.Call {
	return &history.Call{
		Client: s.client, Node: node.ID, Kind: kind, Namespace: s.namespace(), Key: s.key, TTL: history.Span(s.ttl),
	}
}

func (s *script) namespace() string {
	if s.kind == history.Gateway {
		return gatewayNamespace(s.tenant)
	}
	return apiNamespace
}

func (s *script) owner() string { return history.Key{Namespace: s.namespace(), Key: s.key}.String() }

// keyURL is where a call of the Key API goes. An operator names the namespace.
func (s *script) keyURL(node Node, call string) string {
	u := node.API + "/v1/keys/" + url.PathEscape(s.key)
	if call != "" {
		u += "/" + call
	}
	if s.kind == history.Gateway {
		u += "?namespace=" + url.QueryEscape(s.namespace())
	}
	return u
}

func query(u, parameters string) string {
	if strings.Contains(u, "?") {
		return u + "&" + parameters
	}
	return u + "?" + parameters
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode request: %v", err)) // of this package's own values
	}
	return b
}

// get reads the record.
func (s *script) get(kind history.Kind) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		u := s.keyURL(node, "")
		if kind == history.GetLocal {
			u = query(u, "consistency=local")
		}
		return s.newCall(kind, node), request{method: http.MethodGet, url: u}
	}
}

// look reads the record, one way or the other, at a random node.
func (s *script) look() *history.Call {
	kind := history.Get
	if s.chance.is(40) {
		kind = history.GetLocal
	}
	return s.at(s.cfg.Nodes[s.anyNode()], s.get(kind))
}

// settle is an operator at work: it reads the record, and resolves or forgets
// what it saw.
func (s *script) settle() {
	seen := s.elsewhere(s.get(history.Get))
	if !seen.OK() {
		return
	}
	fence := seen.Answer.Fence
	switch d := s.chance.below(10); {
	case seen.Answer.State == "unknown" && d < 4:
		s.elsewhere(s.resolve(fence, false))
	case seen.Answer.State == "unknown" && d < 7:
		s.elsewhere(s.resolve(fence, true))
	case s.chance.is(85):
		s.elsewhere(s.forget(fence, d%2 == 0))
	default:
		s.elsewhere(s.resolve(fence, d%2 == 0)) // of what is not unknown
	}
}

func (s *script) resolve(fence uint64, retry bool) func(Node) (*history.Call, request) {
	sent := s.response(s.chance.uint64())
	return func(node Node) (*history.Call, request) {
		c := s.newCall(history.Resolve, node)
		c.Fence, c.Retry = fence, retry
		body := map[string]any{"fence": fence}
		if retry {
			body["retry"] = true
		} else {
			c.Sent, body["response"] = sent.digest(), sent
		}
		return c, request{method: http.MethodPost, url: s.keyURL(node, "resolve"), body: encode(body)}
	}
}

func (s *script) forget(fence uint64, force bool) func(Node) (*history.Call, request) {
	return func(node Node) (*history.Call, request) {
		c := s.newCall(history.Forget, node)
		c.Fence, c.Force = fence, force
		u := query(s.keyURL(node, ""), fmt.Sprintf("fence=%d&force=%t", fence, force))
		return c, request{method: http.MethodDelete, url: u}
	}
}

// response returns a response of the script's own, another for each number.
func (s *script) response(n uint64) recordedAnswer {
	pad := ""
	if n%5 == 0 { // long enough to be compressed
		pad = strings.Repeat("onced ", 400)
	}
	body := string(encode(map[string]any{"owner": s.owner(), "n": n, "pad": pad}))
	return recordedAnswer{
		Status: 200 + int(n%3), Body: &body,
		Headers: map[string][]string{"Content-Type": {"application/json"}, "Etag": {fmt.Sprintf("%q", fmt.Sprint(n))}},
	}
}

func (r recordedAnswer) digest() string {
	return Digest(r.Status, r.Headers, []byte(*r.Body))
}
