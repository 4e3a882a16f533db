package cluster

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/onced/onced/fsm"
)

func TestResultsSurviveTheWire(t *testing.T) {
	for _, r := range []result{
		{verdict: applied, index: 7, outcome: &fsm.Outcome{Code: fsm.Code_GRANTED, Record: &fsm.Record{State: fsm.State_CLAIMED, Fence: 3}, Time: 9}},
		{verdict: notLeader, hint: "n2"},
		{verdict: notLeader},
		{verdict: notApplied},
		{verdict: unknown},
	} {
		b, err := appendResult(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeResult(b)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		again, err := appendResult(nil, got)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%+v came back as %+v", r, got)
		}
	}
}

func TestFramesOutOfRangeAreRefusedBeforeTheyCostMemory(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"shorter than its header", []byte{0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 1}},
		{"larger than any frame", []byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 1}},
		{"cut off", []byte{0, 16, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'x'}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if f, err := readFrame(bufio.NewReader(bytes.NewReader(tt.in))); err == nil {
				t.Errorf("read %+v", f)
			}
		})
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(append(appendFrameHeader(nil, framePropose, 1, 3), 1, 2, 3))
	b, _ := appendResult(appendFrameHeader(nil, frameResult, 1, 9), result{verdict: applied, index: 1, outcome: &fsm.Outcome{}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, err := readFrame(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if len(fr.payload) > len(in) {
			t.Fatalf("payload of %d bytes from %d", len(fr.payload), len(in))
		}
		_, _ = decodeResult(fr.payload)
	})
}
