package framing

import "strconv"

// Fault is what is wrong with the framing of a request.
type Fault struct {
	// Detail names the fault and its mend. It holds nothing that was sent.
	Detail string
}

// Error returns the detail.
func (f *Fault) Error() string { return "request framing: " + f.Detail }

// response is the whole answer to a request whose head has the fault (RFC 9457).
func (f *Fault) response() []byte {
	body := `{"type":"urn:onced:bad-request","title":"Bad request","status":400,"detail":` + strconv.Quote(f.Detail) + `,"retryable":false}`
	return []byte("HTTP/1.1 400 Bad Request\r\n" +
		"Connection: close\r\n" +
		"Content-Type: application/problem+json\r\n" +
		"X-Content-Type-Options: nosniff\r\n" +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}

// The faults. Details are plain ASCII without quotes, and so are JSON as they
// are.
var (
	errBareCR        = &Fault{"a CR stands without LF after it: end each line with CR LF and remove other CRs"}
	errBareLF        = &Fault{"a line ends with LF alone: end each line with CR LF"}
	errControl       = &Fault{"a line holds NUL or another control character: remove it"}
	errHeadTooLong   = &Fault{"request line and header lines are too long together: send fewer or shorter header lines"}
	errRequestLine   = &Fault{"the request line is not method, target and HTTP/1.1 or HTTP/1.0, with one space between: send it so"}
	errEmptyLines    = &Fault{"more than one empty line stands before the request line: send none"}
	errFolded        = &Fault{"a header line begins with white space: send each header on one line"}
	errNoColon       = &Fault{"a header line has no colon: send each header as name, colon and value"}
	errNoName        = &Fault{"a header line begins with a colon: give the header a name"}
	errSpaceInName   = &Fault{"white space stands in a header name or before its colon: remove it"}
	errName          = &Fault{"a header name holds a character that is not allowed: use letters, digits and hyphens"}
	errTwoLengths    = &Fault{"there is more than one Content-Length line: send one"}
	errLength        = &Fault{"the value of Content-Length is not one number in decimal digits: send the length of the body in bytes"}
	errLengthTooLong = &Fault{"the value of Content-Length is too large: send the length of the body in bytes"}
	errTwoCodings    = &Fault{"there is more than one Transfer-Encoding line: send one, with the value chunked"}
	errCoding        = &Fault{"the value of Transfer-Encoding is not chunked alone: send chunked, or Content-Length instead"}
	errCodingIn10    = &Fault{"HTTP/1.0 has no Transfer-Encoding: send Content-Length, or use HTTP/1.1"}
	errBoth          = &Fault{"there are both Content-Length and Transfer-Encoding: send one of them"}
	errChunkSize     = &Fault{"a chunk size is not 1 to 16 hexadecimal digits below 2^60: send the size of the chunk in bytes"}
	errChunkLine     = &Fault{"a chunk extension is too long: send none"}
	errChunkExcess   = &Fault{"chunk extensions outweigh the data: send none"}
	errChunkEnd      = &Fault{"chunk data is not followed by CR LF: make the chunk size match the data"}
	errTrailers      = &Fault{"the trailers are too long: send fewer or shorter ones"}
	errTrailerName   = &Fault{"a trailer is named Content-Length or Transfer-Encoding: send it as a header"}
)
