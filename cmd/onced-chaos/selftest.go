package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/plant"
	"github.com/onced/onced/chaos/solo"
)

// selftestCommand plants faults in a history and has each found.
type selftestCommand struct {
	History  string        `placeholder:"FILE" help:"A valid history to plant in. Default: some are made, with a node in this process, until each fault had its place."`
	Duration time.Duration `default:"8s" help:"How long that is loaded."`
	Seed     uint64        `default:"1" help:"Of its load; the next one's is greater by 1."`
}

const (
	// selftestCalls is how many calls a history to plant in has at least.
	selftestCalls = 300
	// selftestHistories is how many are made at most: what a fault needs, a
	// lease that is held while another claims, does not happen in each.
	selftestHistories = 6
)

// Run prints a line for each fault. A missed one is an error.
func (s *selftestCommand) Run(ctx context.Context, to streams) error {
	if s.History != "" {
		h, err := readHistory(s.History)
		if err != nil {
			return err
		}
		return plantAll(ctx, to.out, h, plant.Faults()).err()
	}
	unseen := trial{left: plant.Faults()}
	for i := range uint64(selftestHistories) {
		h, err := makeHistory(ctx, s.Seed+i, s.Duration)
		if err != nil {
			return err
		}
		if unseen = plantAll(ctx, to.out, h, unseen.left); unseen.wrong != nil || len(unseen.left) == 0 {
			break
		}
	}
	return unseen.err()
}

// trial is what came of planting faults in a history.
type trial struct {
	left  []plant.Fault // they are to be planted in another
	why   []error       // for each of them
	wrong error         // no other history could mend that
}

func (t trial) err() error {
	if t.wrong == nil && len(t.left) > 0 {
		return fmt.Errorf("%w: %w", errInvalid, errors.Join(t.why...))
	}
	return t.wrong
}

// Why a fault is to be planted elsewhere.
var (
	errNoPlace   = errors.New("the history has no place for it: make a longer one")
	errOtherRule = errors.New("it is seen, but not by the rule that is there for it")
)

// plantAll plants each of faults in h, one at a time, and prints what the judge
// says.
func plantAll(ctx context.Context, out io.Writer, h *history.History, faults []plant.Fault) (t trial) {
	options := check.Options{MinCalls: selftestCalls}
	whole := check.Judge(ctx, h, options)
	fmt.Fprintf(out, "%-12s nothing planted, %d calls on %d keys\n", whole.Outcome, whole.Calls.All, whole.Keys)
	if whole.Outcome != check.Valid {
		printVerdict(out, h, whole, "")
		t.wrong = fmt.Errorf("%w: the judge finds fault with a history as it should be, or the history is no good", errInvalid)
		return t
	}
	var missed []error
	for _, f := range faults {
		err := seen(ctx, h, f, options)
		switch {
		case err == nil:
			fmt.Fprintf(out, "%-12s %s\n", check.Invalid, f.Name)
		case errors.Is(err, errNoPlace) || errors.Is(err, errOtherRule):
			t.left, t.why = append(t.left, f), append(t.why, fmt.Errorf("%s: %w", f.Name, err))
		default:
			fmt.Fprintf(out, "%-12s %s: %v\n", "MISSED", f.Name, err)
			missed = append(missed, fmt.Errorf("%s: %w", f.Name, err))
		}
	}
	if len(missed) > 0 {
		t.wrong = fmt.Errorf("%w: the judge misses what is wrong: %w", errInvalid, errors.Join(missed...))
	}
	return t
}

// seen plants f. Anything but that f's rule finds it is an error.
func seen(ctx context.Context, h *history.History, f plant.Fault, o check.Options) error {
	planted, ok, err := f.In(h)
	switch {
	case err != nil:
		return err
	case !ok:
		return errNoPlace
	}
	v := check.Judge(ctx, planted, o)
	if v.Outcome != check.Invalid {
		return fmt.Errorf("the verdict is %s", v.Outcome)
	}
	if !slices.ContainsFunc(v.Findings, func(found check.Finding) bool { return found.Rule == f.Rule }) {
		return fmt.Errorf("%w, %s", errOtherRule, f.Rule)
	}
	return nil
}

func readHistory(name string) (*history.History, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	defer file.Close()
	return history.Read(file)
}

// makeHistory makes one with a node in this process.
func makeHistory(ctx context.Context, seed uint64, load time.Duration) (h *history.History, err error) {
	dir, err := os.MkdirTemp("", "onced-chaos-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return solo.Run(ctx, solo.Config{Dir: dir, Seed: seed, Duration: load, To: io.Discard})
}
