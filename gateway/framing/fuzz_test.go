package framing

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// verdict is what the scanner makes of a stream.
type verdict struct {
	ends  []int // offsets at which requests end
	at    int   // of the fault, or of the end of the stream
	fault *Fault
	// inHead: what follows ends is of a head, as far as it was seen.
	inHead bool
}

// scanPieces scans data in pieces of the given sizes, repeated.
func scanPieces(data []byte, sizes ...int) verdict {
	s := newScanner(64 << 10)
	v := verdict{at: len(data)}
	for at, i := 0, 0; at < len(data); i++ {
		piece := data[at:min(at+sizes[i%len(sizes)], len(data))]
		for len(piece) > 0 {
			n, ended, fault := s.scan(piece)
			at += n
			piece = piece[n:]
			if fault != nil {
				v.at, v.fault, v.inHead = at, fault, s.inHead()
				return v
			}
			if ended {
				v.ends = append(v.ends, at)
			}
		}
	}
	v.inHead = s.inHead()
	return v
}

// bodyLengths counts the bytes of each body that came whole, and then, if there
// is one, of the body that did not.
func bodyLengths(data []byte) []int {
	var lengths []int
	s := newScanner(64 << 10)
	length := 0
	for i := range data {
		if s.left > 0 {
			length++
		}
		_, ended, fault := s.scan(data[i : i+1])
		if fault != nil {
			break
		}
		if ended {
			lengths = append(lengths, length)
			length = 0
		}
	}
	return lengths
}

func pieces(data []byte, sizes ...int) (segments [][]byte) {
	for i := 0; len(data) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(data))
		segments = append(segments, bytes.Clone(data[:n]))
		data = data[n:]
	}
	return segments
}

// FuzzNetHTTPAgrees holds net/http against the scanner: it sees the requests
// that the scanner saw, with bodies of the same lengths, or gives up earlier by
// itself; and how the bytes are cut into segments changes nothing.
func FuzzNetHTTPAgrees(f *testing.F) {
	for _, tt := range refusedHeads {
		f.Add([]byte(first+tt.in+smuggled), uint8(7), uint8(30))
	}
	for _, tt := range refusedBodies {
		f.Add([]byte(chunkedHead+tt.in+smuggled), uint8(1), uint8(200))
	}
	for _, tt := range accepted {
		f.Add([]byte(first+tt.in+last), uint8(250), uint8(3))
	}
	for _, in := range []string{
		"GET / HTTP/1.0\r\n\r\n" + smuggled,
		"GET / HTTP/1.1\r\n\r\n" + smuggled,
		"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n" + smuggled,
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 2\r\n\r\nab" + smuggled,
		"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab" + smuggled,
		"POST / HTTP/1.1\r\nHost: a\r\nTrailer: X, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
	} {
		f.Add([]byte(in), uint8(64), uint8(64))
	}
	f.Fuzz(func(t *testing.T, data []byte, a, b uint8) {
		if len(data) > 128<<10 {
			return
		}
		sizes := []int{int(a) + 1, int(b) + 1}
		want := scanPieces(data, len(data)+1)
		for _, sizes := range [][]int{{1}, sizes} {
			if got := scanPieces(data, sizes...); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("in pieces of %v the verdict is %v, at once it is %v", sizes, got, want)
			}
		}
		var guarded recorder
		out := overWire(true, &guarded, pieces(data, sizes...)...)
		seen := guarded.exchanges()
		checkServed(t, want, bodyLengths(data), seen, out)
		if want.fault == nil {
			var plain recorder
			overWire(false, &plain, pieces(data, sizes...)...)
			if got := plain.exchanges(); summary(got) != summary(seen) {
				t.Fatalf("without guard the handler saw\n%s, with it\n%s", summary(got), summary(seen))
			}
		}
		early := recorder{answerFirst: true}
		overWire(true, &early, pieces(data, sizes...)...)
		if got := early.exchanges(); len(got) > len(seen) {
			t.Fatalf("a handler that reads no body saw\n%s, one that does\n%s", summary(got), summary(seen))
		}
	})
}

func summary(seen []exchange) string {
	var b strings.Builder
	for _, e := range seen {
		fmt.Fprintf(&b, "%q %q %v\n", e.path, e.body, e.err == nil)
	}
	return b.String()
}

func checkServed(t *testing.T, v verdict, lengths []int, seen []exchange, out string) {
	t.Helper()
	if len(lengths) != len(v.ends) {
		t.Fatalf("%d requests ended, %d bodies", len(v.ends), len(lengths))
	}
	for i, e := range seen {
		switch {
		case i < len(lengths) && (e.err != nil || len(e.body) != lengths[i]):
			t.Fatalf("request %d: the handler read %d bytes, %v; the scanner saw %d", i, len(e.body), e.err, lengths[i])
		case i >= len(lengths) && (i > len(lengths) || e.err == nil || v.inHead):
			t.Fatalf("request %d: the handler read %d bytes, %v; the scanner saw %d whole requests", i, len(e.body), e.err, len(lengths))
		}
	}
	refusals := strings.Count(out, "urn:onced:bad-request")
	hungUp := len(seen) > 0 && seen[len(seen)-1].close
	gaveUp := strings.Contains(out, "HTTP/1.1 4") && refusals == 0 || strings.Contains(out, "HTTP/1.1 5")
	if len(seen) < len(lengths) && !hungUp && !gaveUp {
		t.Fatalf("the handler saw %d requests of %d, and the client read %q", len(seen), len(lengths), out)
	}
	wantRefusals := 0
	if v.fault != nil && v.inHead && !hungUp && !gaveUp {
		wantRefusals = 1
	}
	if refusals != wantRefusals || wantRefusals == 1 && !strings.HasSuffix(out, string(v.fault.response())) {
		t.Fatalf("fault %v: the client read %q", v.fault, out)
	}
}

func TestPiecesCoverTheStream(t *testing.T) {
	if got := slices.Concat(pieces([]byte(first), 3, 1)...); string(got) != first {
		t.Errorf("pieces of %q are %q", first, got)
	}
}

const typical = "POST /v1/payments?source=web HTTP/1.1\r\n" +
	"Host: payments.internal.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n" +
	"Accept: application/json, text/plain, */*\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U\r\n" +
	"Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324\r\n" +
	"Content-Type: application/json\r\n" +
	"X-Request-Id: 4f9c5b1e6c7d4a8b9e0f1a2b3c4d5e6f\r\n" +
	"Content-Length: 64\r\n\r\n" +
	`{"amount":1999,"currency":"EUR","source":"card_1","note":"abcd"}`

// endless brings the same request again and again.
type endless struct {
	net.Conn
	at int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, typical[e.at:])
	e.at = (e.at + n) % len(typical)
	return n, nil
}

// BenchmarkRead is the cost that scanning adds to one request.
func BenchmarkRead(b *testing.B) {
	c := &conn{Conn: &endless{}, scan: newScanner(64 << 10)}
	buf := make([]byte, 4096)
	b.SetBytes(int64(len(typical)))
	b.ReportAllocs()
	for b.Loop() {
		for n := 0; n < len(typical); {
			k, err := c.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			n += k
		}
	}
}

// BenchmarkServe is one request over loopback, with and without the guard.
func BenchmarkServe(b *testing.B) {
	for _, guarded := range []bool{false, true} {
		b.Run(fmt.Sprintf("guarded=%v", guarded), func(b *testing.B) {
			l := listen(b)
			if guarded {
				l = NewListener(l, Limits{})
			}
			start(b, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Date"] = nil
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusNoContent)
			}))
			c := dial(b, l.Addr())
			b.ReportAllocs()
			for b.Loop() {
				c.Send(typical)
				c.Expect(answered)
			}
		})
	}
}
