package gateway

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func TestEachMistakeNamesItsField(t *testing.T) {
	for field, r := range map[string]Route{
		"Path":        {Path: "a"},
		"Methods":     {Path: "/", Methods: []string{"POST", "GET"}},
		"Key":         {Path: "/", Settings: Settings{Key: "x"}},
		"KeyMember":   {Path: "/", Settings: Settings{KeyMember: "a."}},
		"OnLapse":     {Path: "/", Settings: Settings{OnLapse: "x"}},
		"TTL":         {Path: "/", Settings: Settings{TTL: 1}},
		"Lease":       {Path: "/", Settings: Settings{Lease: 1}},
		"Timeout":     {Path: "/", Settings: Settings{Timeout: 1}},
		"MaxRequest":  {Path: "/", Settings: Settings{MaxRequest: 16<<20 + 1}},
		"MaxResponse": {Path: "/", Settings: Settings{MaxResponse: -1}},
		"KeepHeaders": {Path: "/", Settings: Settings{KeepHeaders: []string{"Date"}}},
		"Ignore":      {Path: "/", Settings: Settings{Ignore: []string{""}}},
		"Namespace":   {Path: "/", Settings: Settings{Namespace: "header"}},
		"NotRecorded": {Path: "/", Settings: Settings{NotRecorded: []int{600}}},
	} {
		t.Run(field, func(t *testing.T) {
			if field != "Path" && field != "Methods" && !reflect.ValueOf(r.Settings).FieldByName(field).IsValid() {
				t.Fatal("there is no such field")
			}
			if all := r.Mistakes(builtin); len(all) != 1 || all[0].Field != field {
				t.Errorf("got %v", all)
			}
		})
	}
}

func TestPatterns(t *testing.T) {
	for path, want := range map[string]string{
		"/":                           "",
		"/orders/{id}":                "",
		"/orders/{id:[0-9]{1,9}}/x":   "",
		"/{rest:.*}":                  "",
		"/{rest:[^?# ]+}":             "",
		"/a%20b":                      "",
		"/{a:(?:x|y)}":                "",
		"/{a:(x|y)}":                  "capture groups",
		"/{a":                         "unbalanced braces",
		"/a}":                         "unbalanced braces",
		"/{}":                         "missing name or pattern",
		"/{a:}":                       "missing name or pattern",
		"/{a:[}":                      "missing closing ]",
		"/{a:x{1001}}":                "invalid repeat count",
		"":                            "begin it with /",
		"orders":                      "begin it with /",
		"{rest:.*}":                   "begin it with /",
		"/a b":                        `" " is never in a path as it is sent`,
		"/a?b=c":                      `"?" is never`,
		"/a#b":                        `"#" is never`,
		"/{id}/é":                     `"é" is never`,
		"/a\n":                        `"\n" is never`,
		"/{a}\x7f":                    `"\x7f" is never`,
		"/" + strings.Repeat("a", 99): "",
	} {
		t.Run(path, func(t *testing.T) {
			all := Route{Path: path}.Mistakes(builtin)
			switch {
			case want == "" && len(all) > 0:
				t.Errorf("got %v", all)
			case want != "" && (len(all) != 1 || !strings.Contains(all[0].Error(), want)):
				t.Errorf("got %v, want %s", all, want)
			}
		})
	}
}

func TestARouteThatNeverMatchesIsHidden(t *testing.T) {
	route := func(path string, methods ...string) Route { return Route{Path: path, Methods: methods} }
	for name, tc := range map[string]struct {
		before []Route
		route  Route
		place  int
		hidden bool
	}{
		"first of all":                {nil, route("/a"), 0, false},
		"the same again":              {[]Route{route("/a")}, route("/a"), 0, true},
		"another path":                {[]Route{route("/a")}, route("/b"), 0, false},
		"other names":                 {[]Route{route("/b"), route("/{a}/{b}")}, route("/{x}/{y}"), 1, true},
		"other patterns":              {[]Route{route("/{a:[0-9]+}")}, route("/{a:[a-z]+}"), 0, false},
		"the usual methods":           {[]Route{route("/a", "PATCH", "POST")}, route("/a"), 0, true},
		"one of the usual":            {[]Route{route("/a", "POST")}, route("/a"), 0, false},
		"other methods":               {[]Route{route("/a")}, route("/a", "PUT"), 0, false},
		"fewer methods":               {[]Route{route("/a")}, route("/a", "POST"), 0, true},
		"more methods":                {[]Route{route("/a")}, route("/a", "POST", "PUT"), 0, false},
		"by two together":             {[]Route{route("/a", "POST"), route("/a", "PUT"), route("/b")}, route("/a", "PUT", "POST"), 1, true},
		"by a pattern that is broken": {[]Route{route("/{a")}, route("/{a"), 0, false},
		"by one that takes all":       {[]Route{route("/{rest:.*}")}, route("/a"), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			place, hidden := tc.route.HiddenBy(tc.before)
			if hidden != tc.hidden || hidden && place != tc.place {
				t.Errorf("got %d, %v", place, hidden)
			}
		})
	}
	err := Config{Routes: []Route{route("/a"), route("/b"), route("/a")}}.Validate()
	if err == nil || !strings.Contains(err.Error(), "route 3 (/a): route 1 has its path and methods, so that it never matches") {
		t.Errorf("got %v", err)
	}
}

func FuzzPattern(f *testing.F) {
	for _, path := range []string{"/orders/{id}", "/{a:(b)}", "/{a", "/{a:[}", "é", "/{:}", "/{a:b}}{"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := Route{Path: path}
		if len(r.Mistakes(builtin)) > 0 {
			return
		}
		if _, hidden := r.HiddenBy([]Route{r}); !hidden {
			t.Errorf("%q does not hide itself", path)
		}
		newRouter(Config{Routes: []Route{r}, Default: builtin}) // does not panic
	})
}

// lockedBuffer is a log that may be written to and read at once.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestAnUnknownOutcomeNamesTheNamespace(t *testing.T) {
	log := new(lockedBuffer)
	g := startRig(t, 1, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	const secret = "Bearer only-the-client-knows"
	namespace := func(a *reply) string {
		t.Helper()
		var p struct{ Namespace string }
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || !strings.HasPrefix(p.Namespace, "authorization:") {
			t.Fatalf("answer %s, %v", a.body, err)
		}
		return p.Namespace
	}
	c := post("/breaks-before", "order-7", "x", "Authorization", secret)
	name := namespace(g.send(0, c).wantsProblem(504, "outcome-unknown"))
	if again := namespace(g.send(0, c).wantsProblem(409, "outcome-unknown")); again != name {
		t.Errorf("the retry names %s, the first %s", again, name)
	}
	text := log.String()
	if strings.Count(text, "outcome is unknown") != 1 || !strings.Contains(text, "namespace="+name+" key=") {
		t.Errorf("log %s", text)
	}
	if strings.Contains(text, "only-the-client-knows") || strings.Contains(text, "order-7") {
		t.Errorf("the log tells a secret: %s", text)
	}
	rec, err := g.nodes[0].Lookup(name, "order-7")
	if err != nil || rec == nil {
		t.Errorf("there is no such record: %v, %v", rec, err)
	}
	g.send(0, post("/status/200", "order-8", "x", "Authorization", secret)).wants(200)
	if a := g.send(0, post("/status/201", "order-8", "x", "Authorization", secret)).wantsProblem(422, "key-reused"); strings.Contains(a.body, "namespace") {
		t.Errorf("answer %s", a.body)
	}
}
