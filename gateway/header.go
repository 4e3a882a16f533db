package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// hopByHop are the headers of one connection (RFC 9110, section 7.6.1), beside
// those that Connection names.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// removeHopByHop leaves what is meant for the far end.
func removeHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// upgradeType returns the protocol that a message asks to go on in, or "".
func upgradeType(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// Headers that tell the upstream of the claim that it works under.
const (
	fenceHeader   = "Onced-Fence"
	attemptHeader = "Onced-Attempt"
)

// announce completes the header of a request to the upstream: who sent it, and
// by which way it came. A client cannot pass for the gateway.
func announce(h http.Header, in *http.Request, pseudonym string) {
	for name := range h {
		// Some services (CGI, WSGI) take _ for -.
		switch http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")) {
		case fenceHeader, attemptHeader:
			delete(h, name)
		}
	}
	client, _, err := net.SplitHostPort(in.RemoteAddr)
	if err != nil {
		client = in.RemoteAddr
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	h.Set("X-Forwarded-For", strings.Join(append(slices.Clone(h["X-Forwarded-For"]), client), ", "))
	// A proxy in front knows better what the client asked for.
	if in.Host != "" {
		setDefault(h, "X-Forwarded-Host", in.Host)
	}
	setDefault(h, "X-Forwarded-Proto", proto)
	if lines := h["Forwarded"]; len(lines) > 0 {
		h["Forwarded"] = []string{strings.Join(append(slices.Clone(lines), forwarded(client, in.Host, proto)), ", ")}
	}
	h["Via"] = append(slices.Clone(h["Via"]), fmt.Sprintf("%d.%d %s", in.ProtoMajor, in.ProtoMinor, pseudonym))
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // else net/http adds its own
	}
}

func setDefault(h http.Header, name, value string) {
	if len(h[name]) == 0 {
		h.Set(name, value)
	}
}

// forwarded is an element of the header Forwarded (RFC 7239). An IPv6 address
// is in brackets, and what is no token is quoted.
func forwarded(client, host, proto string) string {
	if strings.Contains(client, ":") {
		client = "[" + client + "]"
	}
	return "for=" + quoted(client) + ";host=" + quoted(host) + ";proto=" + proto
}

func quoted(s string) string {
	if httpguts.ValidHeaderFieldName(s) { // a field name is a token
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// beenHere reports whether a request has come through a gateway of this cluster
// before.
func beenHere(h http.Header, pseudonym string) bool {
	for _, line := range h["Via"] {
		for element := range strings.SplitSeq(line, ",") {
			fields := strings.Fields(element)
			if len(fields) >= 2 && strings.EqualFold(fields[1], pseudonym) {
				return true
			}
		}
	}
	return false
}

// neverKept are headers that no setting has kept. name is canonical.
func neverKept(name string) bool {
	switch name {
	case "Set-Cookie", "Set-Cookie2", "Authorization", "Proxy-Authorization", "Www-Authenticate", "Proxy-Authenticate",
		"Authentication-Info", "Proxy-Authentication-Info", "Date", "Age", "Content-Length",
		"Traceparent", "Tracestate", "Baggage", "X-Request-Id", "X-Correlation-Id", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context",
		wire.KeyHeader, "Idempotency-Ttl", wire.ReplayedHeader, fenceHeader, attemptHeader:
		return true
	}
	return strings.HasPrefix(name, "X-B3-") || slices.Contains(hopByHop, name)
}

// keep returns the headers of a response that are recorded, in an order of
// their names: the same response has the same digest.
func (rt *route) keep(h http.Header) []*fsm.Header {
	var names []string
	for name := range h {
		if (wire.KeptHeader(name) || rt.kept[name]) && !neverKept(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var kept []*fsm.Header
	for _, name := range names {
		for _, value := range h[name] {
			kept = append(kept, &fsm.Header{Name: name, Value: value})
		}
	}
	return kept
}
