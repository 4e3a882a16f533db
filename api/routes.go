package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
)

// access says who may use a method of a route. An operator may use each.
type access int

const (
	forAnyone access = iota
	forClients
	forMonitors
	forOperators
)

func (a access) allows(r Role) bool {
	switch a {
	case forClients:
		return r == Client || r == Operator
	case forMonitors:
		return r == Monitor || r == Operator
	case forOperators:
		return r == Operator
	}
	return true
}

// method is one method of a route. Those for anyone are served however much is
// in hand, and take any query.
type method struct {
	handle func(*server, *exchange) error
	access access
	query  []string // the parameters that are known
}

// route is a path and what can be done with it.
type route struct {
	path    string
	methods map[string]method
	allow   string
}

// routes, the busiest first: the router tries them in this order.
func routes() []*route {
	key := func(call string, a access, handle func(*server, *exchange) error, query ...string) *route {
		return &route{path: "/v1/keys/{key:[^/]*}/" + call, methods: map[string]method{"POST": {handle, a, query}}}
	}
	all := []*route{
		{path: "/create", methods: map[string]method{"POST": {handle: (*server).create, access: forClients}}},
		key("claim", forClients, (*server).claim),
		key("complete", forClients, (*server).complete),
		key("renew", forClients, (*server).renew),
		key("release", forClients, (*server).release),
		key("fail", forClients, (*server).fail),
		key("resolve", forOperators, (*server).resolve, "namespace"),
		{path: "/v1/keys", methods: map[string]method{
			"GET": {(*server).listKeys, forClients, []string{"state", "prefix", "limit", "after", "namespace"}},
		}},
		{path: "/v1/keys/{key:[^/]*}", methods: map[string]method{
			"GET":    {(*server).getKey, forClients, []string{"consistency", "namespace"}},
			"DELETE": {(*server).forgetKey, forOperators, []string{"fence", "force", "namespace"}},
		}},
		{path: "/resources", methods: map[string]method{"GET": {(*server).listResources, forClients, []string{"limit", "after"}}}},
		{path: "/resources/{id:[^/]*}", methods: map[string]method{"GET": {handle: (*server).getResource, access: forClients}}},
		{path: "/v1/cluster", methods: map[string]method{"GET": {handle: (*server).getCluster, access: forMonitors}}},
		{path: "/v1/cluster/state", methods: map[string]method{"GET": {handle: (*server).getState, access: forMonitors}}},
		{path: "/v1/cluster/nodes", methods: map[string]method{"POST": {handle: (*server).addNode, access: forOperators}}},
		{path: "/v1/cluster/nodes/{id:[^/]*}", methods: map[string]method{"DELETE": {handle: (*server).removeNode, access: forOperators}}},
		{path: "/v1/cluster/transfer", methods: map[string]method{"POST": {handle: (*server).transfer, access: forOperators}}},
		{path: "/v1/backup", methods: map[string]method{"GET": {handle: (*server).backup, access: forOperators}}},
		{path: "/livez", methods: map[string]method{"GET": {handle: (*server).livez}}},
		{path: "/readyz", methods: map[string]method{"GET": {handle: (*server).readyz}}},
		{path: "/metrics", methods: map[string]method{"GET": {handle: (*server).metrics, access: forMonitors}}},
		{path: "/openapi.yaml", methods: map[string]method{"GET": {handle: (*server).openAPI}}},
		{path: "/ui/", methods: map[string]method{"GET": {handle: (*server).page}}},
	}
	for _, r := range all {
		r.prepare()
	}
	return all
}

// prepare serves HEAD wherever GET is, and works out the header Allow.
func (r *route) prepare() {
	if get, ok := r.methods[http.MethodGet]; ok {
		r.methods[http.MethodHead] = get
	}
	names := make([]string, 0, len(r.methods))
	for name := range r.methods {
		names = append(names, name)
	}
	slices.Sort(names)
	r.allow = strings.Join(names, ", ")
}

// template is the path as the documentation and the metrics name it.
func (r *route) template() string { return strings.ReplaceAll(r.path, ":[^/]*", "") }

// newRouter leaves paths as they were sent: a key may hold any byte of a path,
// percent-encoded.
func (s *server) newRouter() *mux.Router {
	m := mux.NewRouter().UseEncodedPath().SkipClean(true)
	for _, r := range routes() {
		m.Path(r.path).Handler(s.serve(r))
	}
	m.NotFoundHandler = s.serve(&route{path: "none"})
	return m
}
