package main

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/onced/onced/gateway"
)

// everyMember is the part of a file whose first route says everything.
const everyMember = `routes:
  - path: /orders/{id:[0-9]+}/capture
    methods: [POST, PUT]
    key: required
    key-member: payment.id
    on-lapse: retry
    ttl: 48h
    lease: 20s
    timeout: 90s
    max-request: 2MiB
    max-response: 4096
    keep-headers: [X-Charge, "x-other"]
    ignore:
      - sent_at
      - "null"
    canonical: yes
    namespace: header:X-Tenant
    not-recorded: [409, 418]
  - {path: /health, key: off}
`

func yes() *bool { b := true; return &b }

func TestEveryMemberOfARouteIsTaken(t *testing.T) {
	c, err := parseServe(t, everyMember)
	if err != nil {
		t.Fatal(err)
	}
	want := gateway.Route{Path: "/orders/{id:[0-9]+}/capture", Methods: []string{"POST", "PUT"}, Settings: gateway.Settings{
		Key: gateway.KeyRequired, KeyMember: "payment.id", OnLapse: "retry",
		TTL: 48 * time.Hour, Lease: 20 * time.Second, Timeout: 90 * time.Second, MaxRequest: 2 << 20, MaxResponse: 4096,
		KeepHeaders: []string{"X-Charge", "x-other"}, Ignore: []string{"sent_at", "null"}, Canonical: yes(),
		Namespace: "header:X-Tenant", NotRecorded: []int{409, 418},
	}}
	if len(c.routes) != 2 || !reflect.DeepEqual(c.routes[0].Route, want) {
		t.Errorf("got %+v, want %+v", c.routes, want)
	}
	if r := c.routes[1].Route; r.Path != "/health" || r.Key != gateway.KeyOff {
		t.Errorf("the second route is %+v", r)
	}
	for name := range routeMembers {
		if !strings.Contains(everyMember, " "+name+":") {
			t.Errorf("%s is not tried", name)
		}
	}
}

// wrongForMember are values that are none for a member, beside those that are
// none for any.
var wrongForMember = map[string]map[string]string{
	"path":         {"[/a]": "use a plain value"},
	"methods":      {"[[POST]]": "use a list of plain values"},
	"key":          {"[required]": "use a plain value"},
	"key-member":   {"[a]": "use a plain value"},
	"on-lapse":     {"[retry]": "use a plain value"},
	"ttl":          {"soon": `"soon" is not a duration such as 30s`, "0s": `"0s" is not a duration`, "-1s": `"-1s" is not a duration`, "[1h]": "use a plain value"},
	"lease":        {"20": `"20" is not a duration`, "[20s]": "use a plain value"},
	"timeout":      {"1 hour": `"1 hour" is not a duration`, "[1s]": "use a plain value"},
	"max-request":  {"lots": `"lots" is not a size`, "0": "use at least 1 byte", "-1": `"-1" is not a size`, "[1]": "use a plain value"},
	"max-response": {"1MB": `"1MB" is not a size`, "[1]": "use a plain value"},
	"keep-headers": {"[{a: b}]": "use a list of plain values"},
	"ignore":       {"[~]": "use a list of plain values"},
	"canonical":    {"maybe": "use true or false", "1": "use true or false", "[true]": "use true or false", "'true'": "use true or false"},
	"namespace":    {"[host]": "use a plain value"},
	"not-recorded": {"[x]": `"x" is not a whole number`, "[409, 1.5]": `"1.5" is not a whole number`, "[[409]]": "use a list of plain values"},
}

func TestEveryMemberOfARouteIsChecked(t *testing.T) {
	for name := range routeMembers {
		wrong := map[string]string{"": "use", "null": "use", "''": "use", "{a: b}": "use", "*a": "use"}
		for value, want := range wrongForMember[name] {
			wrong[value] = want
		}
		if wrongForMember[name] == nil {
			t.Errorf("%s is not tried", name)
		}
		for value, want := range wrong {
			t.Run(name+": "+value, func(t *testing.T) {
				file := "data-dir: &a x\nroutes:\n- path: /a\n- " + name + ": " + value
				if name != "path" {
					file += "\n  path: /b"
				}
				wantMistakes(t, file, "line 4: routes: "+name+": "+want)
			})
		}
		t.Run(name+" twice", func(t *testing.T) {
			first, second := "409", "409"
			switch name {
			case "path":
				first, second = "/a", "/b"
			case "canonical":
				first, second = "true", "false"
			case "ttl", "lease", "timeout":
				first, second = "1s", "2s"
			}
			file := "routes:\n- " + name + ": " + first + "\n  " + name + ": " + second
			if name != "path" {
				file += "\n  path: /b"
			}
			wantMistakes(t, file, "line 3: routes: "+name+" is set twice")
		})
	}
}

// wantMistakes checks that serve reports these in the file, in this order, and
// nothing else.
func wantMistakes(t *testing.T, file string, want ...string) {
	t.Helper()
	_, err := parseServe(t, file)
	if err == nil {
		t.Fatalf("nothing is wrong in %q, want %q", file, want)
	}
	got := strings.Split(err.Error(), "\n")
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}

func TestListsOfRoutesAreChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		want []string
	}{
		"no value":          {"routes:", []string{"line 1: routes: use a list of maps"}},
		"a map":             {"routes: {path: /a}", []string{"line 1: routes: use a list of maps"}},
		"a text":            {"routes: /a", []string{"line 1: routes: use a list of maps"}},
		"a list of texts":   {"routes:\n- /a\n- /b", []string{"line 2: routes: a route is a map with a path", "line 3: routes: a route is a map with a path"}},
		"an empty item":     {"routes:\n-\n", []string{"line 2: routes: a route is a map with a path"}},
		"a route twice":     {"routes:\n- &r {path: /a}\n- *r", []string{"line 3: routes: a route is a map with a path"}},
		"no path":           {"routes:\n- ttl: 1h", []string{"line 2: routes: a route has no path"}},
		"an empty map":      {"routes: [{}]", []string{"line 1: routes: a route has no path"}},
		"unknown member":    {"routes:\n- path: /a\n  paths: /b", []string{`line 3: routes: unknown member "paths": they are canonical, ignore,`}},
		"underscores":       {"routes:\n- path: /a\n  on_lapse: retry", []string{`line 3: routes: unknown member "on_lapse"`}},
		"a merge key":       {"routes:\n- &r {path: /a}\n- path: /b\n  <<: *r", []string{`line 4: routes: unknown member "<<"`}},
		"a list as a name":  {"routes:\n- path: /a\n  [ttl]: 1h", []string{`line 3: routes: unknown member ""`}},
		"routes twice":      {"routes: []\nroutes: []", []string{"line 2: routes is set twice"}},
		"routes as flags":   {"route: []", []string{`line 1: unknown member "route"`}},
		"everything at all": {"bogus: 1\nroutes:\n- ttl: x\n  bogus: 2\n- 3\nttl: y", []string{`line 1: unknown member "bogus"`, "line 3: routes: ttl", `line 4: routes: unknown member "bogus"`, "line 3: routes: a route has no path", "line 5: routes: a route is", "line 6: --ttl"}},
	} {
		t.Run(name, func(t *testing.T) { wantMistakes(t, tc.file, tc.want...) })
	}
}

func TestCheckReportsEveryMistakeOnALine(t *testing.T) {
	const begin = "gateway-addr: 127.0.0.1:27001\nupstream: http://127.0.0.1:27002\n"
	for name, tc := range map[string]struct {
		file string
		want []string // FILE, then this
		last string
	}{
		"an empty file":        {"", nil, ": no mistakes, 0 routes"},
		"only a comment":       {"# nothing\n", nil, ": no mistakes, 0 routes"},
		"a good one":           {begin + "routes: [{path: /a}]", nil, ": no mistakes, 1 route"},
		"every member":         {begin + everyMember, nil, ": no mistakes, 2 routes"},
		"syntax":               {"ttl: 1h\n\ta: b", []string{", line 2: found a tab character that violates indentation"}, ": 1 mistake"},
		"a list":               {"- ttl", []string{", line 1: it must be a map of flag names to values"}, ": 1 mistake"},
		"a value":              {"ttl: soon", []string{`, line 1: --ttl: expected duration but got "soon"`}, ": 1 mistake"},
		"a limit":              {"\nttl: 1ms", []string{", line 2: --ttl 1ms: use 1s to 720h"}, ": 1 mistake"},
		"a choice":             {"log-store: paper", []string{", line 1: --log-store must be one of"}, ": 1 mistake"},
		"all of them, sorted":  {"max-body: 1\nlease: x\nttl: 1ms\nbogus: 1", []string{", line 1: --max-body 1: use 1KiB", ", line 2: --lease", ", line 3: --ttl 1ms", `, line 4: unknown member "bogus"`}, ": 4 mistakes"},
		"a pattern":            {begin + "routes:\n- path: '/{id'\n- path: '/{id:[}'\n- path: a\n- path: /b c", []string{`, line 4: route /{id: path`, `, line 5: route /{id:[}: path`, `, line 6: route a: path "a": begin it with /`, `, line 7: route /b c: path "/b c": " " is never in a path`}, ": 4 mistakes"},
		"a capturing group":    {begin + "routes:\n- path: '/{id:(a|b)}'", []string{`, line 4: route /{id:(a|b)}: path "/{id:(a|b)}": route /{id:(a|b)} contains capture groups`}, ": 1 mistake"},
		"a method":             {begin + "routes:\n- path: /a\n  methods: [GET, post]", []string{`, line 5: route /a: method "GET": use some of POST`, `, line 5: route /a: method "post"`}, ": 2 mistakes"},
		"settings of a route":  {begin + "routes:\n- path: /a\n  key: perhaps\n  lease: 1ms\n  namespace: x\n  not-recorded: 200\n  keep-headers: Set-Cookie", []string{`, line 5: route /a: key "perhaps"`, ", line 6: route /a: lease 1ms", `, line 7: route /a: namespace "x"`, ", line 8: route /a: not-recorded 200", ", line 9: route /a: keep-headers: Set-Cookie is never kept"}, ": 5 mistakes"},
		"a route again":        {begin + "routes:\n- path: /a/{x}\n- path: /b\n- path: /a/{y}", []string{", line 6: route /a/{y}: it never matches, the one in line 4 has its path and methods"}, ": 1 mistake"},
		"a route of two":       {begin + "routes:\n- {path: /a, methods: POST}\n- {path: /a, methods: PUT}\n- {path: /a, methods: [PUT, POST]}", []string{", line 6: route /a: it never matches, the one in line 5"}, ": 1 mistake"},
		"another method":       {begin + "routes:\n- {path: /a, methods: POST}\n- {path: /a}", nil, ": no mistakes, 2 routes"},
		"routes alone":         {"routes:\n- path: /a", []string{", line 1: --upstream and routes are of the gateway"}, ": 1 mistake"},
		"what flags would add": {"peers: {n2: '127.0.0.1:27012'}", []string{", line 1: peer list does not name this node (n1)"}, ": 1 mistake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("ONCED_NODE_ID", "n2") // is nothing to it
			t.Setenv("ONCED_TTL", "1ms")
			path := writeFile(t, tc.file)
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), []string{"config", "check", path}, nil, &stdout, &stderr)
			want := tc.want
			if len(want) == 0 {
				want = []string{tc.last}
			} else if err == nil || err.Error() != path+tc.last {
				t.Errorf("got %v, want %q", err, path+tc.last)
			}
			if (err == nil) != (len(tc.want) == 0) || stderr.Len() > 0 {
				t.Errorf("error %v, stderr %q", err, &stderr)
			}
			lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
			if len(lines) != len(want) {
				t.Fatalf("got %q, want %q", lines, want)
			}
			for i := range want {
				if !strings.HasPrefix(lines[i], path+want[i]) {
					t.Errorf("got %q, want %q", lines[i], path+want[i])
				}
			}
		})
	}
}

// Whatever a file holds: reading it ends, each mistake names the file, and one
// without mistakes is printed as a file of the same settings.
func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		"", everyMember, "gateway-addr: 127.0.0.1:27001\nupstream: [http://h]\n" + everyMember, "ttl: 1ms\nbogus: [", "a: *a", "<<: {a: b}",
		"peers: {n1: '127.0.0.1:7001'}\nunique: [a, 'b,c', \"d\\n\"]", "join: 127.0.0.1:27012", "- a", "---\n---\n", "\xff", "routes: [{path: '/{a:(b)}'}]", "? [a]\n: b",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		serve, err := serveByDefault()
		if err != nil {
			t.Fatal(err)
		}
		file := parseConfigFile("dir/f.yaml", raw, serve.flags)
		if err := serve.takeFile(file); err != nil {
			t.Fatal(err)
		}
		wrong := file.mistakes
		for _, m := range serve.mistakes() {
			wrong = append(wrong, serve.located(m))
		}
		for _, err := range wrong {
			if !strings.Contains(err.Error(), "dir/f.yaml") {
				t.Errorf("%v does not name the file", err)
			}
		}
		if len(wrong) > 0 {
			return
		}
		var out bytes.Buffer
		if err := serve.print(&out); err != nil {
			t.Fatal(err)
		}
		again, err := serveByDefault()
		if err != nil {
			t.Fatal(err)
		}
		read := parseConfigFile("dir/g.yaml", out.Bytes(), again.flags)
		if err := again.takeFile(read); err != nil || len(read.mistakes) > 0 {
			t.Fatalf("%v, %v in\n%s", err, read.mistakes, &out)
		}
		if !reflect.DeepEqual(printable(settings(*again)), printable(settings(*serve))) {
			t.Errorf("got %+v, want %+v, by\n%s", settings(*again), settings(*serve), &out)
		}
	})
}

// printable has no lists that are nil: nothing tells them from empty ones.
func printable(c serveCmd) serveCmd {
	c.Unique, c.Upstream, c.GatewayKeepHeaders = append([]string{}, c.Unique...), append([]string{}, c.Upstream...), append([]string{}, c.GatewayKeepHeaders...)
	c.Peers = append(peerList{}, c.Peers...)
	return c
}
