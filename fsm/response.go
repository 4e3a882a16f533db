package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// MaxBody is the longest body of a response or resource, uncompressed.
	MaxBody = 64 << 20
	// Bodies up to this long are kept as they are.
	compressAbove = 1024
)

// NewResponse returns the response as it is recorded: with its digest, and
// with the body compressed where that makes it smaller. It is for the edge:
// compression runs once, not on every node.
func NewResponse(status int, headers []*Header, body []byte) *Response {
	r := &Response{
		Status:  int32(status),
		Headers: headers,
		Body:    body,
		Size:    int64(len(body)),
		Digest:  responseDigest(status, headers, body),
	}
	if len(body) > compressAbove {
		if z := compressor().EncodeAll(body, nil); len(z) < len(body) {
			r.Body, r.Encoding = z, BodyEncoding_ZSTD
		}
	}
	return r
}

// NewDroppedResponse returns the record of a response whose body was not kept:
// too long, or a stream. It has no digest, for nobody has seen all of it.
func NewDroppedResponse(status int, headers []*Header) *Response {
	return &Response{Status: int32(status), Headers: headers, BodyDropped: true}
}

// responseDigest is the SHA-256 over status, the number of headers, each
// header's name and value, and body; numbers are 8 bytes, big endian, and each
// string of bytes follows its length.
func responseDigest(status int, headers []*Header, body []byte) []byte {
	h := sha256.New()
	var b []byte
	b = binary.BigEndian.AppendUint64(b, uint64(status))
	b = binary.BigEndian.AppendUint64(b, uint64(len(headers)))
	for _, header := range headers {
		b = binary.BigEndian.AppendUint64(b, uint64(len(header.Name)))
		b = append(b, header.Name...)
		b = binary.BigEndian.AppendUint64(b, uint64(len(header.Value)))
		b = append(b, header.Value...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	h.Write(b)
	h.Write(body)
	return h.Sum(nil)
}

// Plain returns the body uncompressed. It never makes more of it than Size,
// nor than MaxBody. The bytes may be those of r: they must not be changed.
func (r *Response) Plain() ([]byte, error) {
	return plain(r.GetBody(), r.GetEncoding(), r.GetSize())
}

// Plain returns the body uncompressed, as Response.Plain does.
func (r *Resource) Plain() ([]byte, error) {
	return plain(r.GetBody(), r.GetEncoding(), r.GetSize())
}

func plain(body []byte, encoding BodyEncoding, size int64) ([]byte, error) {
	switch encoding {
	case BodyEncoding_IDENTITY:
		return body, nil
	case BodyEncoding_ZSTD:
		if size < 0 || size > MaxBody {
			return nil, fmt.Errorf("decompress body: %d bytes is no size for it", size)
		}
		b, err := decompressor().DecodeAll(body, make([]byte, 0, size))
		if err != nil {
			return nil, fmt.Errorf("decompress body: %w", err)
		}
		if int64(len(b)) != size {
			return nil, errors.New("decompress body: it is shorter than its size")
		}
		return b, nil
	default:
		return nil, fmt.Errorf("decompress body: encoding %d is unknown", encoding)
	}
}

// compressor and decompressor hold tables of some megabytes, so they are made
// at first use. Both may be used by many goroutines at once.
var (
	compressor = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are constant
		}
		return e
	})
	decompressor = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(MaxBody))
		if err != nil {
			panic(err) // the options are constant
		}
		return d
	})
)
