package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestMaterialFollowsFromSeedAndNumber(t *testing.T) {
	sizes := byteRange{minValue, minValue + 8}
	m, same, other := newMaterial(1, sizes), newMaterial(1, sizes), newMaterial(2, sizes)
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen, lengths := map[string]bool{}, map[int]bool{}
	for number := range uint64(1000) {
		key, data := string(m.appendKey(nil, number)), string(m.appendData(nil, number))
		if !uuid.MatchString(key) {
			t.Fatalf("key %q is not a version 4 UUID", key)
		}
		if seen[key] {
			t.Fatalf("key %s twice", key)
		}
		if k, d := string(same.appendKey(nil, number)), string(same.appendData(nil, number)); k != key || d != data {
			t.Fatalf("number %d: %s %s, and again %s %s", number, key, data, k, d)
		}
		if k := string(other.appendKey(nil, number)); k == key {
			t.Fatalf("number %d has key %s under another seed too", number, k)
		}
		if len(data) < sizes.min || len(data) > sizes.max || !json.Valid([]byte(data)) {
			t.Fatalf("data of %d bytes: %s", len(data), data)
		}
		seen[key], lengths[len(data)] = true, true
	}
	if len(lengths) != sizes.max-sizes.min+1 {
		t.Errorf("%d lengths within %d and %d", len(lengths), sizes.min, sizes.max)
	}
}

// operatorOn returns an operator for the fake, with keys 0 to 3 recorded.
func operatorOn(t *testing.T, f *fake) *operator {
	t.Helper()
	o := &operator{
		conn:     newConn([]string{f.addr}, 0, patience),
		material: newMaterial(7, byteRange{300, 500}),
		recorded: make([][]byte, 4),
	}
	t.Cleanup(o.hangUp)
	for number := range uint64(4) {
		if result, detail := o.record(t.Context(), number); result != done {
			t.Fatalf("record key %d: %s, %v", number, result, detail)
		}
	}
	return o
}

func TestRightAnswersAreDone(t *testing.T) {
	for _, work := range []string{workNew, workReplay, workClaim} {
		t.Run(work, func(t *testing.T) {
			operate := operatorOn(t, newFake(t)).operation(work)
			for number := range uint64(20) {
				if result, detail := operate(t.Context(), 1<<48+number); result != done {
					t.Fatalf("%s, %v", result, detail)
				}
			}
		})
	}
}

func TestRecordedAgainIsTheSame(t *testing.T) {
	o := operatorOn(t, newFake(t))
	before := string(o.recorded[2])
	if result, detail := o.record(t.Context(), 2); result != done || string(o.recorded[2]) != before {
		t.Errorf("%s, %v: recorded %q, then %q", result, detail, before, o.recorded[2])
	}
}

func TestOtherAnswersAreNotDone(t *testing.T) {
	// with answers every request, or those whose path ends as given, with a
	// status, a body and perhaps the header of a replay.
	with := func(suffix string, status int, replayed bool, body string) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if !strings.HasSuffix(r.URL.Path, suffix) {
				return false
			}
			if replayed {
				w.Header().Set("Idempotent-Replayed", "true")
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	echo := func(replayed bool, format string) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
			var request struct{ Data json.RawMessage }
			_ = json.Unmarshal(body, &request) // serveHTTP has looked at it
			if replayed {
				w.Header().Set("Idempotent-Replayed", "true")
			}
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, format, request.Data)
			return true
		}
	}
	const id = `{"id":"00000000-0000-4000-8000-000000000000","data":`
	tests := []struct {
		name, work string
		bend       func(http.ResponseWriter, *http.Request, []byte) bool
		want       outcome
	}{
		{"in progress", workNew, with("", 409, false, "{}"), "409"},
		{"unavailable", workReplay, with("", 503, false, "{}"), "503"},
		{"claim unavailable", workClaim, with("claim", 503, false, "{}"), "503"},
		{"stale at complete", workClaim, with("complete", 409, false, "{}"), "409"},
		{"success of another kind", workNew, with("", 200, false, "{}"), wrong},
		{"redirected", workReplay, with("", 307, false, ""), wrong},
		{"a new key replayed", workNew, echo(true, id+"%s}"), wrong},
		{"other data", workNew, echo(false, id+`{"note":"other"}}`), wrong},
		{"more data", workNew, echo(false, id+"%s,}"), wrong},
		{"no data", workNew, with("", 201, false, "{}"), wrong},
		{"no body", workNew, with("", 201, false, ""), wrong},
		{"run again", workReplay, echo(false, id+"%s}"), wrong},
		{"replayed with another id", workReplay, echo(true, `{"id":"11111111-0000-4000-8000-000000000000","data":%s}`), wrong},
		{"claim without fence", workClaim, with("claim", 201, false, `{"state":"claimed"}`), wrong},
		{"claim with a fence beyond 2^53", workClaim, with("claim", 201, false, `{"state":"claimed","fence":9007199254740992}`), wrong},
		{"claim that replays", workClaim, with("claim", 200, true, `{"state":"completed","fence":1}`), wrong},
		{"completed with another fence", workClaim, with("complete", 200, false, `{"state":"completed","fence":99}`), wrong},
		{"completed without the body", workClaim, with("complete", 200, false, `{"state":"completed","fence":1}`), wrong},
		{"cut off", workNew, func(http.ResponseWriter, *http.Request, []byte) bool { panic(http.ErrAbortHandler) }, connectionError},
		{"chunked", workNew, func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			_ = http.NewResponseController(w).Flush()
			return true
		}, protocolError},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			o := operatorOn(t, f)
			f.mu.Lock()
			f.bend = test.bend
			f.mu.Unlock()
			result, detail := o.operation(test.work)(t.Context(), 1<<48)
			if result != test.want || detail == nil {
				t.Errorf("%s, %v; want %s and why", result, detail, test.want)
			}
		})
	}
}
