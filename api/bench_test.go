package api

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// discard is a client that looks at nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func benchmark(b *testing.B, path, body string) {
	s := newService(b)
	s.send("POST", path, body)
	reader := strings.NewReader(body)
	r := httptest.NewRequest("POST", path, reader)
	r.Header.Set("Content-Type", "application/json")
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		s.handler.ServeHTTP(discard{http.Header{}}, r)
	}
}

// BenchmarkCreate is a new key each time, in a state in memory.
func BenchmarkCreate(b *testing.B) {
	s := newService(b)
	reader := strings.NewReader("")
	r := httptest.NewRequest("POST", "/create", reader)
	r.Header.Set("Content-Type", "application/json")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		reader.Reset(`{"idempotencyKey":"k` + strconv.Itoa(i) + `","data":{"amount":1}}`)
		s.handler.ServeHTTP(discard{http.Header{}}, r)
	}
}

func BenchmarkReplayOfCreate(b *testing.B) { benchmark(b, "/create", seedBody) }

func BenchmarkReplayOfALargeCreate(b *testing.B) {
	benchmark(b, "/create", `{"idempotencyKey":"k","data":"`+strings.Repeat("large ", 2000)+`"}`)
}

func BenchmarkClaimInFlight(b *testing.B) {
	benchmark(b, "/v1/keys/k/claim", `{"fingerprint":"f","attempt_id":"a"}`)
}
