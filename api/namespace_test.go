package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/onced/onced/fsm"
)

// gatewayNamespace is one as the gateway makes them.
const gatewayNamespace = "header:x-tenant:0123456789abcdef0123456789abcdef"

// failedInGateway leaves the key unknown, as a gateway whose upstream broke off
// does.
func (s *service) failedInGateway(namespace, key string) {
	s.t.Helper()
	fence := s.node.apply(&fsm.Command{
		Kind: fsm.Kind_CLAIM, Namespace: namespace, Key: key, Surface: fsm.Surface_SURFACE_GATEWAY,
		Fingerprint: []byte{1}, OnLapse: fsm.OnLapse_BLOCK, Lease: 15_000, Ttl: 86_400_000,
	}).Record.GetFence()
	if o := s.node.apply(&fsm.Command{Kind: fsm.Kind_FAIL, Namespace: namespace, Key: key, Fence: fence}); o.Code != fsm.Code_OK {
		s.t.Fatalf("fail: %v", o.Code)
	}
}

func TestAnOperatorSettlesKeysOfAnotherNamespace(t *testing.T) {
	const query = "?namespace=" + gatewayNamespace
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		left                     fsm.State
	}{
		{"list", "GET", "/v1/keys" + query + "&state=unknown", "", 200, fsm.State_UNKNOWN},
		{"get", "GET", "/v1/keys/k" + query, "", 200, fsm.State_UNKNOWN},
		{"get locally", "GET", "/v1/keys/k" + query + "&consistency=local", "", 200, fsm.State_UNKNOWN},
		{"head", "HEAD", "/v1/keys/k" + query, "", 200, fsm.State_UNKNOWN},
		{"resolve with a response", "POST", "/v1/keys/k/resolve" + query, `{"response":{"status":201,"body":"by hand"}}`, 200, fsm.State_COMPLETED},
		{"resolve with a retry", "POST", "/v1/keys/k/resolve" + query, `{"retry":true}`, 204, fsm.State_ABSENT},
		{"forget", "DELETE", "/v1/keys/k" + query, "", 204, fsm.State_ABSENT},
		{"forget, percent-encoded", "DELETE", "/v1/keys/k?namespace=" + strings.ReplaceAll(gatewayNamespace, ":", "%3A"), "", 204, fsm.State_ABSENT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newService(t)
			s.post("claim", "").wants(201)
			s.failedInGateway(gatewayNamespace, "k")
			a := s.send(tt.method, tt.path, tt.body).wants(tt.status)
			if tt.status == 200 && tt.method != http.MethodHead && !strings.Contains(a.body, `"key":"k","namespace":"`+gatewayNamespace+`"`) {
				t.Errorf("answer %s", a.body)
			}
			left, err := s.node.Lookup(gatewayNamespace, "k")
			if err != nil || left.GetState() != tt.left {
				t.Errorf("it left %v, %v, want %v", left.GetState(), err, tt.left)
			}
			if own := s.send("GET", "/v1/keys/k", "").wants(200).json(); own["state"] != "claimed" || own["namespace"] != "default" {
				t.Errorf("the key of its own namespace is %v", own)
			}
		})
	}
}

func TestANamespaceIsTakenWhereOperatorsNeedItAndIsChecked(t *testing.T) {
	role := Operator
	s := newService(t, func(c *Config) {
		c.Identify = func(*http.Request) (Caller, error) { return Caller{"default", role}, nil }
	})
	s.failedInGateway(strings.Repeat("n", 255), "k")
	calls := map[string]string{
		"GET /v1/keys": "", "GET /v1/keys/k": "", "POST /v1/keys/k/resolve": `{"retry":true}`, "DELETE /v1/keys/k": "",
	}
	eachCall(func(method, path string, m method) {
		body, takes := calls[strings.Replace(method, "HEAD", "GET", 1)+" "+path]
		t.Run(method+" "+path, func(t *testing.T) {
			s.t = t
			if !takes {
				s.send(method, path+"?namespace=default", `{}`).wantsProblem(400, "bad-request")
				return
			}
			for _, bad := range []string{"", "%00", "a%00b", "%FF", strings.Repeat("n", 256), "a&namespace=b"} {
				s.send(method, path+"?namespace="+bad, body).wantsProblem(400, "bad-request")
			}
			s.send(method, path+"?namespace=no%20one%27s", body).wants(map[bool]int{true: 200, false: 404}[path == "/v1/keys"])
			defer func() { role = Operator }()
			for _, role = range []Role{Client, Monitor} {
				for _, name := range []string{"default", "", gatewayNamespace} {
					s.send(method, path+"?namespace="+name, body).wantsProblem(403, "forbidden")
				}
			}
		})
	})
	s.t = t
	s.send("POST", "/v1/keys/k/resolve?namespace="+strings.Repeat("n", 255), `{"retry":true}`).wants(204)
}
