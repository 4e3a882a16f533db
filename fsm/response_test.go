package fsm

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
)

func TestNewResponseCompressesWhereThatIsSmaller(t *testing.T) {
	random := make([]byte, 5000)
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	for _, test := range []struct {
		name string
		body []byte
		want BodyEncoding
	}{
		{"no body", nil, BodyEncoding_IDENTITY},
		{"1024 bytes", bytes.Repeat([]byte("a"), 1024), BodyEncoding_IDENTITY},
		{"1025 bytes", bytes.Repeat([]byte("a"), 1025), BodyEncoding_ZSTD},
		{"what does not shrink", random, BodyEncoding_IDENTITY},
		{"a megabyte", bytes.Repeat([]byte("onced"), 1<<20/5), BodyEncoding_ZSTD},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := NewResponse(200, nil, test.body)
			if r.Encoding != test.want || r.Size != int64(len(test.body)) || r.mistake() != "" {
				t.Errorf("the encoding is %v, the size %d, its mistake %q", r.Encoding, r.Size, r.mistake())
			}
			if got, err := r.Plain(); err != nil || !bytes.Equal(got, test.body) {
				t.Errorf("the body comes back as %.20q…, %v", got, err)
			}
		})
	}
}

func TestTheDigestTellsResponsesApart(t *testing.T) {
	h := func(pairs ...string) (headers []*Header) {
		for i := 0; i < len(pairs); i += 2 {
			headers = append(headers, &Header{Name: pairs[i], Value: pairs[i+1]})
		}
		return headers
	}
	seen := map[string]int{}
	for i, r := range []*Response{
		NewResponse(200, nil, nil), NewResponse(201, nil, nil), NewResponse(200, nil, []byte("a")),
		NewResponse(200, h("a", ""), nil), NewResponse(200, h("", "a"), nil), NewResponse(200, h("a", "", "b", ""), nil),
		NewResponse(200, h("b", "", "a", ""), nil), NewResponse(200, h("ab", ""), nil), NewResponse(200, h("a", "b"), nil),
	} {
		if j, ok := seen[string(r.Digest)]; ok {
			t.Errorf("responses %d and %d have one digest", i, j)
		}
		seen[string(r.Digest)] = i
	}
}

func TestPlainMakesNoMoreThanTheSizeSays(t *testing.T) {
	z := NewResponse(200, nil, bytes.Repeat([]byte("a"), 1<<20))
	for _, test := range []struct {
		name string
		r    *Response
		want string
	}{
		{"a size too small", &Response{Encoding: BodyEncoding_ZSTD, Body: z.Body, Size: 1<<20 - 1}, "decompress"},
		{"a size too large", &Response{Encoding: BodyEncoding_ZSTD, Body: z.Body, Size: 1<<20 + 1}, "shorter"},
		{"two frames", &Response{Encoding: BodyEncoding_ZSTD, Body: append(bytes.Clone(z.Body), z.Body...), Size: 1 << 20}, "decompress"},
		{"a negative size", &Response{Encoding: BodyEncoding_ZSTD, Body: z.Body, Size: -1}, "no size"},
		{"a size above 64 MiB", &Response{Encoding: BodyEncoding_ZSTD, Body: z.Body, Size: MaxBody + 1}, "no size"},
		{"no zstd", &Response{Encoding: BodyEncoding_ZSTD, Body: []byte("no zstd"), Size: 7}, "decompress"},
		{"another encoding", &Response{Encoding: 9}, "unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, err := test.r.Plain()
			if err == nil || !strings.Contains(err.Error(), test.want) || b != nil {
				t.Errorf("Plain gives %d bytes, %v; want %q", len(b), err, test.want)
			}
		})
	}
}

func TestABodyThatUnfoldsBeyondItsSizeTakesNoMemory(t *testing.T) {
	bomb := NewResponse(200, nil, make([]byte, MaxBody))
	bomb.Size = 1000
	if _, err := (&Response{Encoding: BodyEncoding_ZSTD, Body: bomb.Body, Size: 1}).Plain(); err == nil { // also warms up
		t.Fatal("the bomb fits into a byte")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := bomb.Plain(); err == nil {
		t.Error("the bomb fits into 1000 bytes")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("it took %d bytes to find out", n)
	}
}

func TestAResponseWhoseBodyWasNotKeptNeedsNoDigest(t *testing.T) {
	dropped := NewDroppedResponse(200, []*Header{{Name: "Etag", Value: "1"}})
	if wrong := dropped.mistake(); wrong != "" {
		t.Errorf("it is refused: %s", wrong)
	}
	if !dropped.same(NewDroppedResponse(200, nil)) {
		t.Error("sent again, it is another response")
	}
	if dropped.same(NewDroppedResponse(201, nil)) {
		t.Error("another status is the same response")
	}
	dropped.BodyDropped = false
	if dropped.mistake() == "" {
		t.Error("a body that is kept needs no digest either")
	}
}
