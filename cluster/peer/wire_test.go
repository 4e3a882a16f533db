package peer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func examplePreface() preface {
	return preface{
		Purpose: forRaft, ID: "n2", Incarnation: tag{0xa1, 15: 0xa2}, Cluster: tag{0xc1, 15: 0xc2}, Index: 258,
		WantID: "n1", WantIncarnation: tag{0xb1, 15: 0xb2},
	}
}

const (
	goldenPreface = "6f6e636564" + "01" + "003f" + "02" + "026e32" +
		"a10000000000000000000000000000a2" + "c10000000000000000000000000000c2" + "0000000000000102" +
		"026e31" + "b10000000000000000000000000000b2"
	goldenAnswer = "6f6e636564" + "01" + "0017" + "04" + "026e31" + "b10000000000000000000000000000b2" + "776879"
)

func TestPrefaceAndAnswerKeepTheirEncoding(t *testing.T) {
	p := examplePreface()
	if got := hex.EncodeToString(p.append(nil)); got != goldenPreface {
		t.Errorf("preface v1 changed:\n got %s\nwant %s\nother releases could no longer be talked to; add a version instead", got, goldenPreface)
	}
	if got, err := readPreface(bytes.NewReader(p.append(nil))); err != nil || got != p {
		t.Errorf("read %+v, %v", got, err)
	}
	a := answer{Code: CodeReplaced, ID: "n1", Incarnation: tag{0xb1, 15: 0xb2}, Reason: "why"}
	if got := hex.EncodeToString(a.append(nil)); got != goldenAnswer {
		t.Errorf("answer v1 changed:\n got %s\nwant %s\nother releases could no longer be talked to; add a version instead", got, goldenAnswer)
	}
	if got, err := readAnswer(bytes.NewReader(a.append(nil))); err != nil || got != a {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestReadingAPrefaceTakesNoByteTooMany(t *testing.T) {
	r := bytes.NewReader(append(examplePreface().append(nil), "rest"...))
	if _, err := readPreface(r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("left %q", rest)
	}
}

func TestPrefaceThatIsNoneIsRefused(t *testing.T) {
	good, _ := hex.DecodeString(goldenPreface)
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for _, tt := range []struct {
		name string
		b    []byte
		word string
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), "does not speak"},
		{"TLS", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc"), "does not speak"},
		{"another version", edit(func(b []byte) []byte { b[5] = 2; return b }), "another version"},
		{"longer than any", edit(func(b []byte) []byte { b[6] = 0xff; return b }), "does not speak"},
		{"cut short", good[:len(good)-1], "unexpected EOF"},
		{"body too short", edit(func(b []byte) []byte { b[7]--; return b }), "wrong length"},
		{"body too long", edit(func(b []byte) []byte { b[7]++; return append(b, 0) }), "wrong length"},
		{"unknown purpose", edit(func(b []byte) []byte { b[8] = 9; return b }), "purpose 9"},
		{"purpose zero", edit(func(b []byte) []byte { b[8] = 0; return b }), "purpose 0"},
		{"id with a newline", edit(func(b []byte) []byte { b[10] = '\n'; return b }), "who dials"},
		{"expected id with a space", edit(func(b []byte) []byte { b[53] = ' '; return b }), "no node id"},
		{"no incarnation", preface{Purpose: forHello, ID: "n2"}.append(nil), "who dials"},
		{"no id", preface{Purpose: forHello, Incarnation: inc2}.append(nil), "who dials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readPreface(bytes.NewReader(tt.b))
			wantError(t, err, tt.word)
		})
	}
}

func TestRefusalIsOneLineOfBoundedText(t *testing.T) {
	a := answer{Code: CodeUnproven, ID: "n1", Incarnation: inc1, Reason: "a\nb\x1b[2J" + strings.Repeat("é", 2*maxReason)}
	got, err := readAnswer(bytes.NewReader(a.append(nil)))
	if err != nil || len(got.Reason) != maxReason || !strings.HasPrefix(got.Reason, "a?b?[2J??") {
		t.Errorf("read a reason of %d bytes, %.20q, %v", len(got.Reason), got.Reason, err)
	}
	forged := bytes.Replace(answer{Code: CodeUnproven, ID: "n1", Incarnation: inc1, Reason: "a-b"}.append(nil), []byte("a-b"), []byte("a\nb"), 1)
	_, err = readAnswer(bytes.NewReader(forged))
	wantError(t, err, "no text")
}

func TestLargestHelloFitsIntoItsMessage(t *testing.T) {
	h := hello{NodeID: "n1", Incarnation: inc1, roster: roster{Cluster: tag{1}, Index: 1 << 63}}
	for i := range maxMembers {
		name := strings.Repeat(string(rune('A'+i%26)), maxID-2) + string(rune('0'+i/10)) + string(rune('0'+i%10))
		h.Members = append(h.Members, member{name, strings.Repeat(name, 4) + ":1", inc2})
	}
	h.Members = sorted(h.Members)
	var b bytes.Buffer
	if err := writeMessage(&b, h); err != nil {
		t.Fatal(err)
	}
	data, err := readMessage(&b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseHello(data); err != nil || len(got.Members) != maxMembers {
		t.Errorf("read %d members, %v", len(got.Members), err)
	}
	if writeMessage(io.Discard, strings.Repeat("x", maxMessage)) == nil {
		t.Error("a longer message was written")
	}
	_, err = readMessage(bytes.NewReader([]byte{0, 1, 0, 1}))
	wantError(t, err, "longer than")
}

func FuzzPreface(f *testing.F) {
	good, _ := hex.DecodeString(goldenPreface)
	f.Add(good)
	f.Add(preface{Purpose: forHello, ID: "n1", Incarnation: inc1}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readPreface(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, p.append(nil)) {
			t.Errorf("%+v is encoded in two ways", p)
		}
		for _, l := range []local{formedLocal(), formingLocal(), joiningLocal(), joinedLocal()} {
			if v := judge(l, p); v.Reason != line(v.Reason) {
				t.Errorf("reason %q", v.Reason)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	good, _ := hex.DecodeString(goldenAnswer)
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, a.append(nil)) {
			t.Errorf("%+v is encoded in two ways", a)
		}
	})
}

func FuzzHello(f *testing.F) {
	for _, h := range []hello{
		{NodeID: "n1", Incarnation: inc1, List: listOfThree},
		{NodeID: "n1", Incarnation: inc1, roster: threeNodes},
	} {
		data, err := json.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHello(b); err == nil {
			// Whatever was let through must be fit to be acted on.
			conclude(formingLocal(), []meeting{{peer: Peer{"n2", "b:1"}, hello: h}})
		}
		if a, err := parseAdmission(b); err == nil {
			judgeAdmission(joiningLocal(), fromN2(forAdmit), a)
		}
	})
}
