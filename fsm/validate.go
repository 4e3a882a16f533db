package fsm

import "strings"

// The bounds of what a command may say, in bytes and milliseconds.
const (
	maxName       = 255
	maxResourceID = 64
	maxNodeID     = 64
	maxUniques    = 64
	maxFence      = 1<<53 - 1

	minLease = 100
	maxLease = 60 * 60 * 1000
	minTTL   = 1000
	maxTTL   = 720 * 60 * 60 * 1000

	requestIDSize   = 16
	incarnationSize = 16
	digestSize      = 32
)

// mistake says what is wrong with c in itself, or "". The edge checks all of
// it, with better words; here it keeps a broken edge from breaking the state.
func (c *Command) mistake() string {
	switch c.Kind {
	case Kind_EXPIRE, Kind_FEATURE_LEVEL:
		return ""
	case Kind_READ:
		if c.Key == "" {
			return ""
		}
		return c.mistakeInName()
	case Kind_BIND:
		return c.mistakeInBind()
	case Kind_ADMIT:
		if len(c.Members) != 1 {
			return "it names not one node"
		}
		return c.Members[0].mistake()
	case Kind_DISMISS:
		if len(c.Members) != 1 {
			return "it names not one node"
		}
		return ""
	}
	if len(c.RequestId) != requestIDSize {
		return "the request id is not 16 bytes"
	}
	if wrong := c.mistakeInName(); wrong != "" {
		return wrong
	}
	switch c.Kind {
	case Kind_CLAIM:
		return c.mistakeInClaim()
	case Kind_CREATE:
		return c.mistakeInCreate()
	}
	return c.mistakeInWrite()
}

func (c *Command) mistakeInName() string {
	switch {
	case !isNamespace(c.Namespace):
		return "the namespace is not 1 to 255 bytes without NUL"
	case !isKey(c.Key):
		return "the key is not 1 to 255 bytes of visible ASCII"
	}
	return ""
}

func (c *Command) mistakeInClaim() string {
	switch {
	case c.Surface != Surface_SURFACE_KEYS && c.Surface != Surface_SURFACE_GATEWAY:
		return "a claim is of the key API or the gateway"
	case c.Lease < minLease || c.Lease > maxLease:
		return "the lease is not 100 ms to 1 h"
	case len(c.AttemptId) > maxName:
		return "the attempt id is longer than 255 bytes"
	}
	return c.mistakeInTerms()
}

// mistakeInTerms is about what CLAIM and CREATE have in common.
func (c *Command) mistakeInTerms() string {
	switch {
	case len(c.Fingerprint) > maxName:
		return "the fingerprint is longer than 255 bytes"
	case c.Ttl < minTTL || c.Ttl > maxTTL:
		return "the ttl is not 1 s to 720 h"
	}
	return ""
}

func (c *Command) mistakeInCreate() string {
	switch {
	case c.Surface != Surface_SURFACE_CREATE:
		return "a create is of the resource API"
	case !isResourceID(c.ResourceId):
		return "the resource id is not 1 to 64 letters, digits, '-' or '_'"
	case len(c.Uniques) > maxUniques:
		return "it has more than 64 unique fields"
	case c.Response == nil || c.Response.BodyDropped:
		return "a create has a whole response"
	}
	for _, u := range c.Uniques {
		if u.Field == "" || strings.IndexByte(u.Field, 0) >= 0 || len(u.Value) != digestSize {
			return "a unique field is a name without NUL and 32 bytes"
		}
	}
	if wrong := c.mistakeInTerms(); wrong != "" {
		return wrong
	}
	return c.Response.mistake()
}

// mistakeInWrite is about the commands that carry a fence.
func (c *Command) mistakeInWrite() string {
	if c.Fence > maxFence {
		return "the fence is not below 2^53"
	}
	switch c.Kind {
	case Kind_RENEW:
		if c.Lease < minLease || c.Lease > maxLease {
			return "the lease is not 100 ms to 1 h"
		}
	case Kind_COMPLETE:
		return c.Response.mistake()
	case Kind_RESOLVE:
		if c.Retry != (c.Response == nil) {
			return "it resolves to a response or to a retry"
		}
		if !c.Retry {
			return c.Response.mistake()
		}
	}
	return ""
}

func (r *Response) mistake() string {
	switch {
	case r == nil:
		return "there is no response"
	case r.Status < 100 || r.Status > 999:
		return "the status is not of three digits"
	case len(r.Digest) != digestSize && !(r.BodyDropped && len(r.Digest) == 0):
		return "the digest is not 32 bytes"
	case r.Size < 0:
		return "the size is negative"
	case r.BodyDropped && (len(r.Body) > 0 || r.Encoding != BodyEncoding_IDENTITY):
		return "a body is both kept and dropped"
	case r.BodyDropped:
		return ""
	case r.Size > MaxBody:
		return "the body is larger than 64 MiB"
	case r.Encoding == BodyEncoding_IDENTITY && r.Size != int64(len(r.Body)):
		return "the size is not that of the body"
	}
	return ""
}

func (c *Command) mistakeInBind() string {
	if len(c.ClusterId) == 0 || len(c.ClusterId) > maxName {
		return "the cluster id is not 1 to 255 bytes"
	}
	if len(c.Members) == 0 {
		return "a cluster has a node"
	}
	seen := make(map[string]bool, len(c.Members))
	for _, node := range c.Members {
		if wrong := node.mistake(); wrong != "" {
			return wrong
		}
		if seen[node.Id] {
			return "two nodes have one id"
		}
		seen[node.Id] = true
	}
	return ""
}

func (m *Member) mistake() string {
	switch {
	case m.Id == "" || len(m.Id) > maxNodeID:
		return "a node's id is not 1 to 64 bytes"
	case m.RaftAddr == "" || len(m.RaftAddr) > maxName:
		return "a node's address is not 1 to 255 bytes"
	case len(m.Incarnation) != incarnationSize:
		return "a node's incarnation is not 16 bytes"
	}
	return ""
}

func isNamespace(s string) bool {
	return s != "" && len(s) <= maxName && strings.IndexByte(s, 0) < 0
}

func isKey(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// isResourceID allows what needs no escaping in a path or in JSON.
func isResourceID(s string) bool {
	if s == "" || len(s) > maxResourceID {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
