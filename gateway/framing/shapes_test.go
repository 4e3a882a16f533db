package framing

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// refusedHeads are shapes that no handler may see.
var refusedHeads = []struct {
	name string
	in   string
	want *Fault
}{
	{"Content-Length, then Transfer-Encoding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errBoth},
	{"Transfer-Encoding, then Content-Length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", errBoth},
	{"two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n", errTwoLengths},
	{"two different lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX: y\r\nContent-Length: 7\r\n\r\n", errTwoLengths},
	{"a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", errLength},
	{"a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", errLength},
	{"a negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", errLength},
	{"a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", errLength},
	{"an empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", errLength},
	{"two numbers in one length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc", errLength},
	{"a quoted length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"3\"\r\n\r\nabc", errLength},
	{"a length over 63 bits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", errLengthTooLong},
	{"a length of 25 digits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000000000003\r\n\r\nabc", errLengthTooLong},
	{"another transfer coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", errCoding},
	{"two transfer codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked and more", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked x\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked with a vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", errControl},
	{"chunked with a Kelvin sign", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\u212aed\r\n\r\n0\r\n\r\n", errCoding},
	{"quoted chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", errCoding},
	{"an empty transfer coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", errCoding},
	{"two Transfer-Encoding lines", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errTwoCodings},
	{"Transfer-Encoding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errCodingIn10},
	{"a continued header line", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", errFolded},
	{"a continuation with a tab", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", errFolded},
	{"a folded Transfer-Encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", errCoding},
	{"a folded Content-Length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n 2\r\n\r\n", errFolded},
	{"white space after the request line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", errFolded},
	{"a space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc", errSpaceInName},
	{"a tab before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", errSpaceInName},
	{"a space in a name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", errSpaceInName},
	{"a name with a character that is not a token's", "GET / HTTP/1.1\r\nHost: a\r\n[X]: z\r\n\r\n", errName},
	{"a header line without colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n\r\n", errNoColon},
	{"a header line without name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", errNoName},
	{"a CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\n", errBareCR},
	{"two CRs at a line end", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", errBareCR},
	{"a CR in the request line", "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", errBareCR},
	{"LF alone after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", errBareLF},
	{"LF alone after a header line", "GET / HTTP/1.1\r\nHost: a\n\r\n", errBareLF},
	{"LF alone as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", errBareLF},
	{"LF alone before the request line", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", errBareLF},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", errControl},
	{"NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\x00: y\r\n\r\n", errControl},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", errControl},
	{"NUL as the first byte", "\x00GET / HTTP/1.1\r\nHost: a\r\n\r\n", errControl},
	{"two empty lines before the request line", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", errEmptyLines},
	{"a request line without version", "GET /\r\nHost: a\r\n\r\n", errRequestLine},
	{"another version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", errRequestLine},
	{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errRequestLine},
	{"two spaces in the request line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"a space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", errRequestLine},
	{"a tab in the request line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"a head over the limit", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", errHeadTooLong},
	{"many lines over the limit", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 11000) + "\r\n", errHeadTooLong},
}

const chunkedHead = "POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

// refusedBodies follow chunkedHead.
var refusedBodies = []struct {
	name string
	in   string
	want *Fault
}{
	{"no chunk size", "\r\n\r\n", errChunkSize},
	{"an extension without chunk size", ";a=b\r\n\r\n", errChunkSize},
	{"a chunk size that is not hexadecimal", "g\r\n\r\n", errChunkSize},
	{"a chunk size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"a signed chunk size", "+3\r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"a space before the chunk size", " 3\r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"a space after the chunk size", "3 \r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"a space before the extension", "3 ;a\r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"a chunk size of 17 digits", "00000000000000003\r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"a chunk size that overflows", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n", errChunkSize},
	{"LF alone after a chunk size", "3\nabc\r\n0\r\n\r\n", errBareLF},
	{"LF alone in an extension", "3;a\nabc\r\n0\r\n\r\n", errBareLF},
	{"a CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n", errBareCR},
	{"NUL in an extension", "3;a\x00\r\nabc\r\n0\r\n\r\n", errControl},
	{"an extension over 4 KiB", "3;" + strings.Repeat("a", 4096) + "\r\nabc\r\n0\r\n\r\n", errChunkLine},
	{"extensions that outweigh the data", strings.Repeat("1;"+strings.Repeat("a", 2000)+"\r\na\r\n", 10) + "0\r\n\r\n", errChunkExcess},
	{"data longer than its chunk", "3\r\nabcd\r\n0\r\n\r\n", errChunkEnd},
	{"LF alone after the data", "3\r\nabc\n0\r\n\r\n", errBareLF},
	{"a CR alone after the data", "3\r\nabc\r0\r\n\r\n", errBareCR},
	{"LF alone after the last chunk", "0\r\n\n", errBareLF},
	{"Content-Length in the trailers", "0\r\nContent-Length: 5\r\n\r\n", errTrailerName},
	{"Transfer-Encoding in the trailers", "0\r\ntransfer-encoding: chunked\r\n\r\n", errTrailerName},
	{"a continued trailer", "0\r\nX: y\r\n z\r\n\r\n", errFolded},
	{"a trailer without colon", "0\r\nX\r\n\r\n", errNoColon},
	{"a trailer with a space before its colon", "0\r\nX : y\r\n\r\n", errSpaceInName},
	{"LF alone after a trailer", "0\r\nX: y\n\r\n", errBareLF},
	{"trailers over 4 KiB", "0\r\nX: " + strings.Repeat("x", 4096) + "\r\n\r\n", errTrailers},
}

// accepted are shapes that reach the handler, with the body that it reads.
var accepted = []struct {
	name string
	in   string
	body string
}{
	{"no body", "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n", ""},
	{"a length", "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "abc"},
	{"a length with white space around", "POST /ok HTTP/1.1\r\nHost: a\r\ncontent-length:\t 003 \t\r\n\r\nabc", "abc"},
	{"a length without space", "POST /ok HTTP/1.1\r\nHost: a\r\nCONTENT-LENGTH:3\r\n\r\nabc", "abc"},
	{"a length of 0", "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""},
	{"a body that looks like a request", "POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + smuggled, smuggled},
	{"a body with a length on GET", "GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "abc"},
	{"HTTP/1.0 kept alive", "POST /ok HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", "abc"},
	{"chunks", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", "abc0123456789"},
	{"chunked in capitals", "POST /ok HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING:  CHUNKED \r\n\r\n1\r\na\r\n0\r\n\r\n", "a"},
	{"chunk sizes of 16 digits", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n", "abc"},
	{"chunk extensions", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b;c\"\r\nabc\r\n0;x\r\n\r\n", "abc"},
	{"a signed stream", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("3E8;chunk-signature="+strings.Repeat("f", 64)+"\r\n"+strings.Repeat("x", 1000)+"\r\n", 300) + "0\r\n\r\n", strings.Repeat("x", 300000)},
	{"chunk data of CR LF", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n"},
	{"trailers", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", "a"},
	{"an empty chunked body", "POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
	{"header values of all kinds", "GET /ok HTTP/1.1\r\nHost: a\r\nX:\r\nX-Y_Z!: a:b \t c\xff\r\nContent-Length-X: a\r\nX-Transfer-Encoding: b\r\n\r\n", ""},
	{"a head of 64 KiB", "GET /ok HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10-len("GET /ok HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n")) + "\r\n\r\n", ""},
	{"an empty line before the request line, after POST", "\r\nPOST /ok HTTP/1.1\r\nHost: a\r\n\r\n", ""},
}

const first = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"

// pace gives the ways in which a client sends the same bytes.
var pace = []struct {
	name  string
	parts func(string) []string
}{
	{"at once", func(s string) []string { return []string{s} }},
	{"in two halves", func(s string) []string { return []string{s[:len(s)/2], s[len(s)/2:]} }},
	{"byte by byte", func(s string) []string {
		// Of a long shape, the ends are enough.
		if len(s) < 2000 {
			return bytewise(s)
		}
		parts := bytewise(s[:300])
		parts = append(parts, s[300:len(s)-300])
		return append(parts, bytewise(s[len(s)-300:])...)
	}},
}

func TestRefusedHeadsAreAnsweredInTurnAndReachNoHandler(t *testing.T) {
	for _, tt := range refusedHeads {
		for _, p := range pace {
			t.Run(tt.name+"/"+p.name, func(t *testing.T) {
				var h recorder
				l := NewListener(listen(t), patient)
				start(t, l, &h)
				c := dial(t, l.Addr())
				c.Send(p.parts(first + tt.in + smuggled)...)
				c.Expect(answered)
				c.WantProblem(tt.want)
				if got := h.paths(); got != "/first" {
					t.Errorf("the handler saw %q", got)
				}
			})
		}
	}
}

// WantProblem reads the refusal, and the end of the connection.
func (c *client) WantProblem(want *Fault) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("read the refusal: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("read the refusal: %v", err)
	}
	var problem struct {
		Type, Title, Detail string
		Status              int
		Retryable           *bool
	}
	if err := json.Unmarshal(body, &problem); err != nil {
		c.t.Fatalf("the refusal is %q: %v", body, err)
	}
	if res.StatusCode != 400 || !res.Close || res.Header.Get("Content-Type") != "application/problem+json" {
		c.t.Errorf("refused with %s, close %v, %v", res.Status, res.Close, res.Header)
	}
	if problem.Type != "urn:onced:bad-request" || problem.Title != "Bad request" || problem.Status != 400 ||
		problem.Detail != want.Detail || problem.Retryable == nil || *problem.Retryable {
		c.t.Errorf("the problem is %s, want detail %q", body, want.Detail)
	}
	if rest := c.Rest(); rest != "" {
		c.t.Errorf("after the refusal came %q", rest)
	}
}

func TestAFaultInABodyFailsItsReading(t *testing.T) {
	for _, tt := range refusedBodies {
		for _, p := range pace {
			t.Run(tt.name+"/"+p.name, func(t *testing.T) {
				var h recorder
				var segments [][]byte
				for _, part := range p.parts(first + chunkedHead + tt.in + smuggled) {
					segments = append(segments, []byte(part))
				}
				if out := overWire(true, &h, segments...); out != answered+answeredClose {
					t.Errorf("the client read %q", out)
				}
				seen := h.exchanges()
				if len(seen) != 2 || seen[0].err != nil || seen[1].path != "/bad" || seen[1].err == nil {
					t.Fatalf("the handler saw %+v", seen)
				}
				if got := scanPieces([]byte(chunkedHead+tt.in), 1); got.fault != tt.want || got.inHead {
					t.Errorf("the scanner found %v, in a head: %v, want %v", got.fault, got.inHead, tt.want)
				}
				// net/http keeps to itself why trailers could not be read.
				var fault *Fault
				if !strings.HasPrefix(tt.in, "0\r\n") && (!errors.As(seen[1].err, &fault) || fault != tt.want) {
					t.Errorf("reading the body: %v, want %v", seen[1].err, tt.want)
				}
			})
		}
	}
}

func TestAFaultInABodyThatNobodyReadsEndsTheConnection(t *testing.T) {
	for _, tt := range refusedBodies {
		t.Run(tt.name, func(t *testing.T) {
			h := recorder{answerFirst: true}
			overWire(true, &h, []byte(chunkedHead+tt.in+smuggled))
			if seen := h.exchanges(); len(seen) != 1 {
				t.Errorf("the handler saw %+v", seen)
			}
		})
	}
}

func TestAcceptedShapesReachTheHandlerAsTheyAre(t *testing.T) {
	for _, tt := range accepted {
		for _, p := range pace {
			t.Run(tt.name+"/"+p.name, func(t *testing.T) {
				var h recorder
				l := NewListener(listen(t), patient)
				start(t, l, &h)
				c := dial(t, l.Addr())
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					w := bufio.NewWriter(c)
					for _, part := range p.parts(first + tt.in + last) {
						_, _ = w.WriteString(part)
						_ = w.Flush()
					}
				}()
				if out := c.Rest(); !strings.HasSuffix(out, answeredClose) {
					t.Errorf("the client read %q", out)
				}
				<-sent
				seen := h.exchanges()
				if len(seen) != 3 || seen[0].body != "hello" || seen[1].path != "/ok" || seen[1].body != tt.body || seen[1].err != nil || seen[2].path != "/last" {
					t.Fatalf("the handler saw %.500v", seen)
				}
			})
		}
	}
}
