package api

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/gorilla/mux"
)

var document = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

// documented returns what openapi.yaml says of the call that r is; nil for
// wrong paths and methods.
func (s *service) documented(r *http.Request) *openapi3filter.RequestValidationInput {
	s.t.Helper()
	doc, err := document()
	if err != nil {
		s.t.Fatal(err)
	}
	var match mux.RouteMatch
	if !s.handler.(*mux.Router).Match(r, &match) || match.Route == nil {
		return nil
	}
	template, err := match.Route.GetPathTemplate()
	if err != nil {
		s.t.Fatal(err)
	}
	template = strings.ReplaceAll(template, ":[^/]*", "")
	item := doc.Paths.Value(template)
	if item == nil {
		s.t.Fatalf("path %s is not documented", template)
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	operation := item.GetOperation(method)
	if operation == nil {
		return nil
	}
	return &openapi3filter.RequestValidationInput{
		Request: r, PathParams: match.Vars,
		Route:   &routers.Route{Spec: doc, Path: template, PathItem: item, Method: method, Operation: operation},
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
}

// checkDocumented holds an answer against openapi.yaml.
func (s *service) checkDocumented(r *http.Request, a *answer) {
	s.t.Helper()
	if s.unchecked || a.status == http.StatusMethodNotAllowed {
		return
	}
	call := s.documented(r)
	if call == nil {
		return
	}
	err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: call,
		Status:                 a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.body)),
		Options: call.Options,
	})
	if err != nil {
		s.t.Errorf("%s %s answers what is not documented: %v\n%d %v\n%s", r.Method, r.URL, err, a.status, a.header, a.body)
	}
	for _, name := range contractHeaders {
		if a.header.Get(name) != "" && !hasHeader(call.Route.Operation, a.status, name) {
			s.t.Errorf("%s %s answers %d with the header %s, which is not documented", r.Method, r.URL, a.status, name)
		}
	}
}

// checkRequestDocumented holds a request that was taken, and had this body,
// against openapi.yaml: what it forbids must be refused. Two things it says in
// words only: that an empty query parameter counts as left out, and that what
// curl -d declares to be a form is JSON.
func (s *service) checkRequestDocumented(r *http.Request, body string) {
	s.t.Helper()
	call := s.documented(r)
	if s.unchecked || call == nil {
		return
	}
	r.Body = io.NopCloser(strings.NewReader(body))
	if r.Header.Get("Content-Type") == formType {
		r.Header.Set("Content-Type", jsonType)
	}
	query := r.URL.Query()
	for name := range query {
		if query.Get(name) == "" {
			query.Del(name)
		}
	}
	r.URL.RawQuery = query.Encode()
	if err := openapi3filter.ValidateRequest(context.Background(), call); err != nil {
		s.t.Errorf("%s %s is taken, but not as it is documented: %v\n%s", r.Method, r.URL, err, body)
	}
}

// contractHeaders are those that clients go by.
var contractHeaders = []string{"Idempotency-Key", "Idempotency-Ttl", "Idempotent-Replayed", "Location", "Preference-Applied", "Retry-After", "Www-Authenticate"}

func hasHeader(operation *openapi3.Operation, status int, name string) bool {
	response := operation.Responses.Status(status)
	if response == nil {
		return false
	}
	for documented := range response.Value.Headers {
		if http.CanonicalHeaderKey(documented) == name {
			return true
		}
	}
	return false
}
