package framing

import "math"

type state uint8

const (
	beforeRequest state = iota
	requestLine
	lineStart // of a header or trailer line, or of the empty line that ends them
	fieldName
	fieldValue
	body // left bytes are to come
	chunkSize
	chunkExtension
	chunkData // left bytes are to come, then CR LF
)

// Bounds inside a chunked body: net/http's own, or just below. It must never
// give up on a body before the scanner does: where a handler answered before it
// read the body (EnableFullDuplex), it would read on as if a request began there.
const (
	maxChunkLine   = 4095
	maxChunkExcess = 16 << 10
	maxTrailers    = 4096
	maxChunk       = 1<<60 - 1 // net/http's reckoning of excess overflows above
)

type field uint8

const (
	otherField field = iota
	contentLength
	transferEncoding
)

// scanner follows the requests of one connection, byte by byte, and keeps no
// more of them than a word.
type scanner struct {
	limit int // of a head, in bytes

	state    state
	cr       bool  // the last byte of this line was a CR
	trailers bool  // lines are those of the trailers
	room     int   // bytes that this head, chunk line or set of trailers may still have
	left     int64 // bytes of the body or chunk to come

	// Of the request.
	skipped bool // an empty line stood before it
	http10  bool
	given   [3]bool // by field: there was such a line
	length  int64   // of the body, or of this chunk
	excess  int64   // see maxChunkExcess

	// Of the line.
	spaces int // in the request line
	digits int // of the chunk size
	field  field
	gap    bool // white space followed the word of the value
	word   word
}

func newScanner(limit int) scanner { return scanner{limit: limit, room: limit} }

// word is a name or value that matters, as far as it can: what is too long to
// match anything is cut off.
type word struct {
	n int
	b [20]byte
}

func (w *word) add(b byte) {
	if w.n < len(w.b) {
		w.b[w.n] = b
		w.n++
	}
}

func (w *word) is(s string) bool { return string(w.b[:w.n]) == s }

// lower folds ASCII letters alone: other folding would let U+212A pass for k.
func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}

// inHead reports whether the next byte belongs to a head: of the request that
// it belongs to, nothing can have been answered.
func (s *scanner) inHead() bool { return s.state <= fieldValue && !s.trailers }

// scan follows b to the end of the request, to a fault or to its own end, and
// returns how many bytes were free of faults.
func (s *scanner) scan(b []byte) (n int, ended bool, fault *Fault) {
	for n < len(b) {
		if s.left > 0 {
			part := min(int64(len(b)-n), s.left)
			n += int(part)
			if s.left -= part; s.left > 0 || s.state == chunkData {
				continue
			}
			ended = true
		} else if part := s.inert(b[n:]); part > 0 {
			n += part
			s.room -= part
			continue
		} else {
			if ended, fault = s.step(b[n]); fault != nil {
				return n, false, fault
			}
			n++
		}
		if ended {
			*s = newScanner(s.limit)
			return n, true, nil
		}
	}
	return n, false, nil
}

// inert returns how many bytes b begins with that step would only count: most
// of a head is values that say nothing about framing.
func (s *scanner) inert(b []byte) (n int) {
	if s.cr || s.state != chunkExtension && (s.state != fieldValue || s.field != otherField) {
		return 0
	}
	b = b[:min(len(b), s.room)]
	for n < len(b) && !control(b[n]) {
		n++
	}
	return n
}

func control(b byte) bool { return b < ' ' && b != '\t' || b == 0x7f }

// step takes one byte of a line.
func (s *scanner) step(b byte) (ended bool, fault *Fault) {
	if s.room--; s.room < 0 {
		return false, s.tooLong()
	}
	switch {
	case s.cr && b != '\n':
		return false, errBareCR
	case s.cr:
		s.cr = false
		return s.endLine()
	case b == '\n':
		return false, errBareLF
	case b == '\r':
		s.cr = true
		return false, nil
	case control(b):
		return false, errControl
	}
	return false, s.inLine(b)
}

func (s *scanner) tooLong() *Fault {
	switch {
	case s.trailers:
		return errTrailers
	case s.inHead():
		return errHeadTooLong
	}
	return errChunkLine
}

// inLine takes one byte that is not part of a line end.
func (s *scanner) inLine(b byte) *Fault {
	switch s.state {
	case beforeRequest:
		s.state = requestLine
		return s.inRequestLine(b)
	case requestLine:
		return s.inRequestLine(b)
	case lineStart:
		if b == ' ' || b == '\t' {
			return errFolded
		}
		if b == ':' {
			return errNoName
		}
		s.state, s.word.n = fieldName, 0
		return s.inName(b)
	case fieldName:
		return s.inName(b)
	case fieldValue:
		return s.inValue(b)
	case chunkSize:
		return s.inChunkSize(b)
	case chunkData:
		return errChunkEnd
	}
	return nil // any byte of a chunk extension
}

func (s *scanner) inRequestLine(b byte) *Fault {
	switch {
	case b == '\t':
		return errRequestLine
	case b != ' ':
		s.word.add(b)
		return nil
	case s.word.n == 0:
		return errRequestLine
	}
	s.spaces++
	s.word.n = 0
	return nil
}

func (s *scanner) inName(b byte) *Fault {
	switch {
	case b == ':':
		return s.endName()
	case b == ' ' || b == '\t':
		return errSpaceInName
	case !tokenByte[b]:
		return errName
	}
	s.word.add(lower(b))
	return nil
}

func (s *scanner) endName() *Fault {
	switch {
	case s.word.is("content-length"):
		s.field = contentLength
	case s.word.is("transfer-encoding"):
		s.field = transferEncoding
	default:
		s.field = otherField
	}
	s.state, s.word.n, s.gap = fieldValue, 0, false
	switch {
	case s.field == otherField:
		return nil
	case s.trailers:
		return errTrailerName
	case s.field == contentLength && s.given[contentLength]:
		return errTwoLengths
	case s.field == transferEncoding && s.given[transferEncoding]:
		return errTwoCodings
	case s.given[contentLength] || s.given[transferEncoding]:
		return errBoth
	case s.field == transferEncoding && s.http10:
		return errCodingIn10
	}
	s.given[s.field] = true
	return nil
}

// inValue gathers the one word that the value of a framing field is.
func (s *scanner) inValue(b byte) *Fault {
	if s.field == otherField {
		return nil
	}
	if b == ' ' || b == '\t' {
		s.gap = s.word.n > 0
		return nil
	}
	switch {
	case s.field == contentLength && (s.gap || b < '0' || b > '9'):
		return errLength
	case s.gap:
		return errCoding
	}
	s.word.add(lower(b))
	return nil
}

func (s *scanner) inChunkSize(b byte) *Fault {
	var v byte
	switch {
	case '0' <= b && b <= '9':
		v = b - '0'
	case 'a' <= b && b <= 'f':
		v = b - 'a' + 10
	case 'A' <= b && b <= 'F':
		v = b - 'A' + 10
	case b == ';' && s.digits > 0:
		s.state = chunkExtension
		return nil
	default:
		return errChunkSize
	}
	if s.digits++; s.digits > 16 || s.length > maxChunk>>4 {
		return errChunkSize
	}
	s.length = s.length<<4 | int64(v)
	return nil
}

func (s *scanner) endLine() (ended bool, fault *Fault) {
	switch s.state {
	case beforeRequest: // one empty line is forgiven (RFC 9112 §2.2)
		if s.skipped {
			return false, errEmptyLines
		}
		s.skipped = true
	case requestLine:
		s.http10 = s.word.is("HTTP/1.0")
		if s.spaces != 2 || !s.http10 && !s.word.is("HTTP/1.1") {
			return false, errRequestLine
		}
		s.state = lineStart
	case lineStart:
		return s.endSection(), nil
	case fieldName:
		return false, errNoColon
	case fieldValue:
		s.state = lineStart
		return false, s.endValue()
	case chunkSize, chunkExtension:
		return false, s.endChunkLine()
	case chunkData:
		s.beginChunk()
	}
	return false, nil
}

func (s *scanner) endValue() *Fault {
	switch s.field {
	case transferEncoding:
		if !s.word.is("chunked") {
			return errCoding
		}
	case contentLength:
		if s.word.n == 0 {
			return errLength
		}
		for _, b := range s.word.b[:s.word.n] {
			v := int64(b - '0')
			if s.length > (math.MaxInt64-v)/10 {
				return errLengthTooLong
			}
			s.length = s.length*10 + v
		}
		if s.word.n == len(s.word.b) { // perhaps cut off
			return errLengthTooLong
		}
	}
	return nil
}

// endSection is at the empty line after the headers or the trailers.
func (s *scanner) endSection() (ended bool) {
	switch {
	case s.trailers:
		return true
	case s.given[transferEncoding]:
		s.beginChunk()
		return false
	}
	s.state, s.left = body, s.length
	return s.length == 0
}

func (s *scanner) beginChunk() {
	s.state, s.room, s.digits, s.length = chunkSize, maxChunkLine, 0, 0
}

func (s *scanner) endChunkLine() *Fault {
	if s.digits == 0 {
		return errChunkSize
	}
	// As net/http reckons it: the line, less what one chunk may take for itself
	// and twice its data.
	s.excess = max(s.excess+int64(maxChunkLine-s.room)-16-2*s.length, 0)
	if s.excess > maxChunkExcess {
		return errChunkExcess
	}
	if s.length == 0 {
		s.state, s.room, s.trailers = lineStart, maxTrailers, true
		return nil
	}
	s.state, s.left = chunkData, s.length
	return nil
}

// tokenByte tells which bytes may be in a field name (RFC 9110 §5.6.2).
var tokenByte = func() (t [256]bool) {
	for _, b := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[b] = true
	}
	return t
}()
