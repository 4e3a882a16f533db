package fsm

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func TestEntriesComeBackAsTheyWere(t *testing.T) {
	for _, test := range []struct {
		name     string
		time     int64
		commands [][]byte
	}{
		{"empty", 0, nil},
		{"one", start, [][]byte{[]byte("a")}},
		{"an empty command", 1, [][]byte{{}}},
		{"many", 1<<63 - 1, slices.Repeat([][]byte{[]byte("abc"), {0}}, 500)},
		{"a time before all time", -1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := EncodeEntry(test.time, test.commands)
			if cap(data) != len(data) {
				t.Errorf("%d bytes were set aside for %d", cap(data), len(data))
			}
			now, commands, err := decodeEntry(data)
			if err != nil || now != test.time || !slices.EqualFunc(commands, test.commands, bytes.Equal) {
				t.Errorf("it comes back as %d, %q, %v", now, commands, err)
			}
			e := new(Entry)
			if err := e.UnmarshalVT(data[headerSize:]); err != nil || e.Time != test.time || len(e.Commands) != len(test.commands) {
				t.Errorf("as the message it comes back as %v, %v", e, err)
			}
		})
	}
}

func TestAFlippedBitOfAnEntryIsFound(t *testing.T) {
	data := entry(t, start, claim("A"))
	for i := range len(data) * 8 {
		bad := bytes.Clone(data)
		bad[i/8] ^= 1 << (i % 8)
		if err := CheckEntry(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("with bit %d flipped CheckEntry says %v", i, err)
		}
	}
	for n := range len(data) {
		if err := CheckEntry(data[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes CheckEntry says %v", n, err)
		}
	}
	if err := CheckEntry(data); err != nil {
		t.Error(err)
	}
}

func TestKeysOfTheDueIndexSortByTime(t *testing.T) {
	var keys [][]byte
	for _, at := range []int64{0, 1, 255, 256, start, maxTime + maxTTL} {
		keys = append(keys, appendDueKey(nil, at, []byte("rn\x00k")))
		if got, target, ok := splitDueKey(keys[len(keys)-1]); got != at || string(target) != "rn\x00k" || !ok {
			t.Errorf("%d comes back as %d, %q, %t", at, got, target, ok)
		}
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Error("the keys are out of order")
	}
}
