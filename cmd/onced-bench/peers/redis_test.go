package peers

import (
	"bufio"
	"strings"
	"testing"
)

func TestCommandsAreArraysOfStrings(t *testing.T) {
	got := string(appendCommand(nil, []byte("SET"), []byte("k"), nil))
	if want := "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

func TestReadBulk(t *testing.T) {
	for answer, want := range map[string]struct {
		value  string
		exists bool
		fails  bool
	}{
		"$3\r\nabc\r\n":         {value: "abc", exists: true},
		"$0\r\n\r\n":            {exists: true},
		"$-1\r\n":               {},
		"-ERR syntax error\r\n": {fails: true},
		"$x\r\n":                {fails: true},
		"$-2\r\n":               {fails: true},
		"$99999999\r\n":         {fails: true},
		"$3\r\nab":              {fails: true},
		"$3\r\nabcde":           {fails: true},
		"":                      {fails: true},
	} {
		value, exists, err := readBulk(bufio.NewReader(strings.NewReader(answer)))
		if string(value) != want.value || exists != want.exists || (err != nil) != want.fails {
			t.Errorf("%q: %q, %t, %v; want %+v", answer, value, exists, err, want)
		}
	}
}
