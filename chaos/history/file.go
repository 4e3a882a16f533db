package history

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-json-experiment/json"
)

// maxLine is the longest line of a history, in bytes.
const maxLine = 1 << 20

// line is one line of the file: exactly one member is set.
type line struct {
	Run    *Run    `json:"run,omitempty"`
	Call   *Call   `json:"call,omitempty"`
	Effect *Effect `json:"effect,omitempty"`
	Fault  *Fault  `json:"fault,omitempty"`
	Leader *Leader `json:"leader,omitempty"`
	State  *State  `json:"state,omitempty"`
	End    *End    `json:"end,omitempty"`
}

// Writer writes a history as it happens, and keeps it. It may be used by any
// number of goroutines; what it is given must not be changed afterwards.
type Writer struct {
	mu   sync.Mutex
	to   *bufio.Writer
	kept History
	err  error // the first; nothing is written after it
}

// NewWriter begins a history. The caller closes what it writes to, after Finish.
func NewWriter(to io.Writer, run Run) *Writer {
	run.Format = Format
	w := &Writer{to: bufio.NewWriterSize(to, 64<<10), kept: History{Run: run}}
	w.write(line{Run: &run})
	return w
}

func (w *Writer) write(l line) {
	if w.err != nil {
		return
	}
	b, err := json.Marshal(l)
	if err == nil {
		_, err = w.to.Write(append(b, '\n'))
	}
	if err != nil {
		w.err = fmt.Errorf("write history: %w", err)
	}
}

// Call records a call that has returned, or will not.
func (w *Writer) Call(c *Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.Calls = append(w.kept.Calls, c)
	w.write(line{Call: c})
}

// Effect records work that was done.
func (w *Writer) Effect(e *Effect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.Effects = append(w.kept.Effects, e)
	w.write(line{Effect: e})
}

// Fault records a fault that is over.
func (w *Writer) Fault(f *Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.Faults = append(w.kept.Faults, f)
	w.write(line{Fault: f})
}

// Leader records who leads from now on.
func (w *Writer) Leader(l *Leader) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.Leaders = append(w.kept.Leaders, l)
	w.write(line{Leader: l})
}

// State records what a node holds.
func (w *Writer) State(s *State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.States = append(w.kept.States, s)
	w.write(line{State: s})
}

// Finish ends the history and returns it.
func (w *Writer) Finish(e End) (*History, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.Calls = len(w.kept.Calls)
	w.kept.End = &e
	w.write(line{End: &e})
	if err := w.to.Flush(); w.err == nil && err != nil {
		w.err = fmt.Errorf("write history: %w", err)
	}
	return &w.kept, w.err
}

// Write writes a whole history.
func Write(to io.Writer, h *History) error {
	w := NewWriter(to, h.Run)
	for _, f := range h.Faults {
		w.Fault(f)
	}
	for _, l := range h.Leaders {
		w.Leader(l)
	}
	for _, c := range h.Calls {
		w.Call(c)
	}
	for _, e := range h.Effects {
		w.Effect(e)
	}
	for _, s := range h.States {
		w.State(s)
	}
	if h.End == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		if err := w.to.Flush(); err != nil {
			return fmt.Errorf("write history: %w", err)
		}
		return w.err
	}
	_, err := w.Finish(*h.End)
	return err
}

// ErrMalformed marks what is no history.
var ErrMalformed = errors.New("malformed history")

// Read reads a history. It accepts nothing that Writer does not write: unknown
// members, calls that end before they begin and the like are ErrMalformed. One
// that ends early has no End, and is no error: the tool may have been killed.
func Read(from io.Reader) (*History, error) {
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, maxLine)
	r := reader{ids: map[uint64]bool{}}
	for scanner.Scan() {
		r.lines++
		if err := r.take(scanner.Bytes()); err != nil {
			return nil, fmt.Errorf("%w, line %d: %w", ErrMalformed, r.lines, err)
		}
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%w, line %d: it is longer than %d bytes", ErrMalformed, r.lines+1, maxLine)
	case err != nil:
		return nil, fmt.Errorf("read history: %w", err)
	case r.lines == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrMalformed)
	}
	return &r.read, nil
}

type reader struct {
	read  History
	lines int
	ids   map[uint64]bool
}

// take takes in one line.
func (r *reader) take(b []byte) error {
	var l line
	if err := json.Unmarshal(b, &l, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if n := l.members(); n != 1 || bytes.Equal(b, []byte("null")) {
		return fmt.Errorf("it has %d members, not one", n)
	}
	if (l.Run != nil) != (r.lines == 1) {
		return errors.New("the first line, and no other, says how the run was made")
	}
	if r.read.End != nil {
		return errors.New("it comes after the end")
	}
	switch {
	case l.Run != nil:
		r.read.Run = *l.Run
		if l.Run.Format != Format {
			return fmt.Errorf("its format is %d, not %d", l.Run.Format, Format)
		}
	case l.Call != nil:
		r.read.Calls = append(r.read.Calls, l.Call)
		return r.checkCall(l.Call)
	case l.Effect != nil:
		r.read.Effects = append(r.read.Effects, l.Effect)
		return checkEffect(l.Effect)
	case l.Fault != nil:
		r.read.Faults = append(r.read.Faults, l.Fault)
		return checkSpan(l.Fault.Begin, l.Fault.End)
	case l.Leader != nil:
		r.read.Leaders = append(r.read.Leaders, l.Leader)
	case l.State != nil:
		r.read.States = append(r.read.States, l.State)
	case l.End != nil:
		r.read.End = l.End
		if l.End.Calls != len(r.read.Calls) {
			return fmt.Errorf("%d calls were written and %d are here", l.End.Calls, len(r.read.Calls))
		}
	}
	return nil
}

func (l *line) members() (n int) {
	for _, set := range []bool{l.Run != nil, l.Call != nil, l.Effect != nil, l.Fault != nil, l.Leader != nil, l.State != nil, l.End != nil} {
		if set {
			n++
		}
	}
	return n
}

func (r *reader) checkCall(c *Call) error {
	switch {
	case c.ID == 0 || r.ids[c.ID]:
		return fmt.Errorf("call id %d is zero or taken", c.ID)
	case !kinds[c.Kind]:
		return fmt.Errorf("call %d is of no kind: %q", c.ID, c.Kind)
	case c.Policy != "" && c.Policy != Retry && c.Policy != Block:
		return fmt.Errorf("call %d has no policy %q", c.ID, c.Policy)
	case (c.Answer == nil) != (c.End == Never):
		return fmt.Errorf("call %d has an answer and no end, or an end and no answer", c.ID)
	case min(c.Lease, c.TTL, c.Wait) < 0 || max(c.Lease, c.TTL, c.Wait) > latest:
		return fmt.Errorf("call %d has a span below zero, or over all bounds", c.ID)
	}
	r.ids[c.ID] = true
	return checkSpan(c.Begin, c.End)
}

func checkEffect(e *Effect) error {
	switch e.Result {
	case Answered, Declined, Broken:
		return checkSpan(e.Begin, e.End)
	}
	return fmt.Errorf("the effect of call %d has no result %q", e.Call, e.Result)
}

// latest is the end of time, 36 years on: sums of a few do not overflow.
const latest Nano = 1 << 60

func checkSpan(begin, end Nano) error {
	if begin < 0 || begin > latest || end < begin || end > latest && end != Never {
		return fmt.Errorf("it begins at %d and ends at %d, which no run does", begin, end)
	}
	return nil
}
