package wire

import (
	"net/http"
	"testing"
	"time"
)

func TestPreferredWait(t *testing.T) {
	const limit = 30 * time.Second
	tests := []struct {
		name   string
		header []string
		want   time.Duration
	}{
		{"none", nil, 0},
		{"seconds", []string{"wait=5"}, 5 * time.Second},
		{"the cap", []string{"wait=30"}, limit},
		{"more than the cap", []string{"wait=31"}, limit},
		{"more than any number", []string{"wait=99999999999999999999999"}, limit},
		{"zero", []string{"wait=0"}, 0},
		{"leading zeros", []string{"wait=007"}, 7 * time.Second},
		{"another case", []string{"WAIT=5"}, 5 * time.Second},
		{"quoted", []string{`wait="5"`}, 5 * time.Second},
		{"white space", []string{" wait = 5 "}, 5 * time.Second},
		{"among others", []string{"respond-async, wait=5, handling=lenient"}, 5 * time.Second},
		{"behind an unknown one with a comma in quotes", []string{`foo="a, wait=9", wait=5`}, 5 * time.Second},
		{"behind an escaped quote", []string{`foo="\", wait=9", wait=5`}, 5 * time.Second},
		{"with a parameter", []string{`wait=5; foo="bar;"`}, 5 * time.Second},
		{"on the second line", []string{"respond-async", "wait=5"}, 5 * time.Second},
		{"the first of two", []string{"wait=5, wait=7"}, 5 * time.Second},
		{"the first of two, malformed", []string{"wait=x, wait=7"}, 0},
		{"no value", []string{"wait"}, 0},
		{"an empty value", []string{"wait="}, 0},
		{"an empty string", []string{`wait=""`}, 0},
		{"negative", []string{"wait=-5"}, 0},
		{"signed", []string{"wait=+5"}, 0},
		{"a fraction", []string{"wait=1.5"}, 0},
		{"a unit", []string{"wait=5s"}, 0},
		{"an open string", []string{`wait="5`}, 0},
		{"a name that only begins so", []string{"waiting=5"}, 0},
		{"empty elements", []string{",, ,wait=5,,"}, 5 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := PreferredWait(http.Header{"Prefer": tt.header}, limit); got != tt.want {
				t.Errorf("wait %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzPreferredWait(f *testing.F) {
	for _, s := range []string{"wait=5", `a="b,\"c", wait="7"`, "wait;wait=3", `"`, `\`, "=,;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		const limit = 30 * time.Second
		got := PreferredWait(http.Header{"Prefer": {line}}, limit)
		if got < 0 || got > limit || got%time.Second != 0 {
			t.Fatalf("%q: wait %v", line, got)
		}
	})
}
