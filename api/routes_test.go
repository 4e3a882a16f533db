package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/onced/onced/wire"
)

// eachCall visits every method of every route that is not for anyone, as a path
// that leads there.
func eachCall(visit func(name, path string, m method)) {
	for _, r := range routes() {
		for name, m := range r.methods {
			if m.access != forAnyone {
				visit(name, strings.NewReplacer("{key}", "k", "{id}", "x").Replace(r.template()), m)
			}
		}
	}
}

// What holds for every call alike, and openapi.yaml says of each.
func TestEveryCallIsRefusedAlike(t *testing.T) {
	role, known := Operator, true
	s := newService(t, func(c *Config) {
		c.MaxBody = 100
		c.Identify = func(*http.Request) (Caller, error) {
			if !known {
				return Caller{}, wire.Unauthenticated
			}
			return Caller{"default", role}, nil
		}
	})
	const tooLong = `{"fence":"                                                                                                "}`
	eachCall(func(name, path string, m method) {
		t.Run(name+" "+path, func(t *testing.T) {
			s.t = t
			s.send(name, path, "", "Sec-Fetch-Site", "cross-site").wantsProblem(403, "forbidden")
			s.send(name, path+"?no-such=1", "").wantsProblem(400, "bad-request")
			if name == http.MethodPost {
				s.send(name, path, tooLong).wantsProblem(413, "too-large")
				s.send(name, path, `{}`, "Content-Type", "text/plain").wantsProblem(415, "unsupported-media-type")
				s.send(name, path, `{"no-such":1}`).wantsProblem(400, "bad-request")
				s.send(name, path, `[]`).wantsProblem(400, "bad-request")
			}
			role = Client
			if m.access == forClients {
				role = Monitor
			}
			s.send(name, path, `{}`).wantsProblem(403, "forbidden")
			role, known = Operator, false
			s.send(name, path, `{}`).wantsHeader("Www-Authenticate", "Bearer").wantsProblem(401, "unauthenticated")
			known = true
		})
	})
	if s.node.began != 0 || s.node.admin != nil {
		t.Error("something was done")
	}
}

func TestEveryCallOfAKeyRefusesABadOne(t *testing.T) {
	s := newService(t)
	for _, key := range []string{"", "a%20b", "%00", "%7F", "%C3%A9", "%FF", strings.Repeat("k", 256), strings.Repeat("%6b", 256)} {
		for _, call := range []string{"claim", "renew", "complete", "release", "fail", "resolve"} {
			s.send("POST", "/v1/keys/"+key+"/"+call, `{"fence":1}`).wantsProblem(400, "key-invalid")
		}
		s.send("GET", "/v1/keys/"+key, "").wantsProblem(400, "key-invalid")
		s.send("DELETE", "/v1/keys/"+key, "").wantsProblem(400, "key-invalid")
	}
	if s.node.began != 0 {
		t.Error("something was claimed")
	}
}

func TestAKeyInThePathMayHoldWhatAPathMeansSomethingBy(t *testing.T) {
	s := newService(t)
	for i, key := range []string{".", "..", "%2E%2E", "%2F", "%2F%2F", "a%2F%2Fb", "a%2Fclaim", "claim", "%3Fa=b", "%23", "%25", "%252F", "a;b", "a+b", "%22q%22", "%5C", "a,b"} {
		if fence := s.send("POST", "/v1/keys/"+key+"/claim", "").fence(); fence != i+1 {
			t.Errorf("%s: fence %d, want %d: it is the key of another path", key, fence, i+1)
		}
		s.send("GET", "/v1/keys/"+key, "").wants(200)
		s.send("POST", "/v1/keys/"+key+"/complete", fmt.Sprintf(`{"fence":%d,"response":{"status":200}}`, i+1)).wants(200)
		s.send("DELETE", "/v1/keys/"+key, "").wants(204)
	}
}
