package api

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

func TestTheDocumentIsValidAndCoversEveryRoute(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", doc.OpenAPI)
	}
	documented := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			documented[method+" "+path] = true
		}
	}
	for _, r := range routes() {
		for method, m := range r.methods {
			if method == http.MethodHead {
				continue
			}
			name := method + " " + r.template()
			if !documented[name] {
				t.Errorf("%s is not documented", name)
				continue
			}
			delete(documented, name)
			for _, parameter := range m.query {
				if !hasParameter(doc, r.template(), method, parameter) {
					t.Errorf("%s: the parameter %s is not documented", name, parameter)
				}
			}
			for _, p := range doc.Paths.Value(r.template()).GetOperation(method).Parameters {
				if p.Value.In == "query" && !slices.Contains(m.query, p.Value.Name) {
					t.Errorf("%s: the parameter %s is documented, but not known", name, p.Value.Name)
				}
			}
		}
	}
	for name := range documented {
		t.Errorf("%s is documented, but not there", name)
	}
}

func hasParameter(doc *openapi3.T, path, method, name string) bool {
	item := doc.Paths.Value(path)
	all := append(slices.Clone(item.Parameters), item.GetOperation(method).Parameters...)
	return all.GetByInAndName("query", name) != nil
}

func TestTheDocumentNamesEveryProblem(t *testing.T) {
	source, err := os.ReadFile("../wire/problem.go")
	if err != nil {
		t.Fatal(err)
	}
	slugs := regexp.MustCompile(`Slug: "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(slugs) < 20 {
		t.Fatalf("only %d problems found", len(slugs))
	}
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	known := doc.Components.Schemas["Problem"].Value.Properties["type"].Value.Enum
	for _, slug := range slugs {
		if !slices.Contains(known, any("urn:onced:"+slug[1])) {
			t.Errorf("problem %s is not documented", slug[1])
		}
	}
}

// faults counts what the harness finds wrong.
type faults struct {
	testing.TB
	found int
}

func (f *faults) Helper()               {}
func (f *faults) Errorf(string, ...any) { f.found++ }

func TestAnAnswerThatIsNotDocumentedIsNoticed(t *testing.T) {
	s := newService(t)
	good := s.post("claim", "").wants(201)
	for name, bad := range map[string]*answer{
		"a status":              {t, 299, good.header, good.body},
		"a member":              {t, 201, good.header, strings.Replace(good.body, "{", `{"x":1,`, 1)},
		"a missing member":      {t, 201, good.header, `{}`},
		"a type":                {t, 201, good.header, strings.Replace(good.body, `"fence":1`, `"fence":"1"`, 1)},
		"a time with an offset": {t, 201, good.header, strings.Replace(good.body, "Z", "+01:00", 1)},
		"a header":              {t, 201, http.Header{"Content-Type": {"application/json"}, "Idempotent-Replayed": {"true"}}, good.body},
		"a media type":          {t, 201, http.Header{"Content-Type": {"text/plain"}}, good.body},
	} {
		f := &faults{TB: t}
		s.t = f
		r, err := http.NewRequest("POST", "/v1/keys/k/claim", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.checkDocumented(r, bad)
		if f.found == 0 {
			t.Errorf("%s that is not documented goes unnoticed", name)
		}
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	s := newService(t)
	if got := s.send("GET", "/openapi.yaml", "").wants(200).wantsHeader("Content-Type", "application/yaml").body; got != string(openAPI) {
		t.Error("it is another")
	}
}

func TestThePageNeedsNothingButItsNode(t *testing.T) {
	s := newService(t)
	a := s.send("GET", "/ui/", "").wants(200).wantsHeader("Content-Type", "text/html; charset=utf-8")
	policy := a.header.Get("Content-Security-Policy")
	for _, directive := range []string{"default-src 'none'", "connect-src 'self'", "script-src 'sha256-", "style-src 'sha256-", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, directive) {
			t.Errorf("policy %q has no %s", policy, directive)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	// What such a policy would block.
	for _, pattern := range []string{`(?i)\bhttps?://`, `(?i)<[^>]+\bon[a-z]+\s*=`, `(?i)<[^>]+\bstyle\s*=`, `(?i)\bsrc\s*=`, `@import`, `innerHTML`, `\beval\(`} {
		if found := regexp.MustCompile(pattern).FindString(a.body); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	if strings.Count(a.body, "<script") != 1 || strings.Count(a.body, "<style") != 1 {
		t.Error("the policy knows the hash of one script and one style")
	}
}
