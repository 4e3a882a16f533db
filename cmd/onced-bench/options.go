package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// loadOptions say what load to make. The same for both commands.
type loadOptions struct {
	Work        []string      `default:"new,replay" help:"Kinds of work: new (create under a new key), replay (repeat a create), claim (claim and complete a new key)."`
	Connections []int         `default:"1,16,64,256" help:"Connections, each with one operation at a time; one cell for each number."`
	Duration    time.Duration `default:"8s" help:"Measured time of a cell."`
	Warmup      time.Duration `default:"1s" help:"Time before it, with load and without measurement."`
	Timeout     time.Duration `default:"15s" help:"After which an operation's connection is given up."`
	ValueBytes  byteRange     `default:"300-500" help:"Size of a created value or recorded response, uniform in this range."`
	Rate        int64         `default:"0" help:"Operations begun a second, over all connections, measured from when each was due; 0 begins one as soon as the last has ended."`
	Keys        int           `default:"10000" help:"Keys that replays are spread over, created beforehand."`
	JSON        bool          `name:"json" help:"Print one JSON object a cell instead of the table."`
}

const (
	maxCells       = 64
	maxConnections = 4096
	maxDuration    = time.Hour
	maxTimeout     = 2 * time.Minute
	maxRate        = 1_000_000
	maxKeys        = 1_000_000
	minValue       = 32
	maxValue       = 256 << 10
)

// check reports every option out of bounds.
func (o *loadOptions) check() error {
	var b bounds
	for _, work := range o.Work {
		if !slices.Contains([]string{workNew, workReplay, workClaim}, work) {
			b.refuse("--work %q is none of new, replay, claim", work)
		}
	}
	b.within("number of cells", int64(len(o.Work)*len(o.Connections)), 1, maxCells)
	for _, connections := range o.Connections {
		b.within("--connections", int64(connections), 1, maxConnections)
	}
	b.lasts("--duration", o.Duration, 100*time.Millisecond, maxDuration)
	b.lasts("--warmup", o.Warmup, 0, maxDuration)
	b.lasts("--timeout", o.Timeout, 100*time.Millisecond, maxTimeout)
	b.within("--rate", o.Rate, 0, maxRate)
	b.within("--keys", int64(o.Keys), 1, maxKeys)
	return b.err()
}

// bounds collects what is wrong with the values of flags.
type bounds struct{ errs []error }

func (b *bounds) refuse(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

func (b *bounds) within(name string, value, low, high int64) {
	if value < low || value > high {
		b.refuse("%s %d is not within %d and %d", name, value, low, high)
	}
}

func (b *bounds) lasts(name string, value, low, high time.Duration) {
	if value < low || value > high {
		b.refuse("%s %s is not within %s and %s", name, value, low, high)
	}
}

func (b *bounds) err() error { return errors.Join(b.errs...) }

// byteRange is a range of sizes, written "300-500" or "400".
type byteRange struct{ min, max int }

// UnmarshalText reads a range and refuses one out of bounds.
func (r *byteRange) UnmarshalText(text []byte) error {
	low, high, ranged := strings.Cut(string(text), "-")
	if !ranged {
		high = low
	}
	var err error
	if r.min, err = strconv.Atoi(low); err != nil {
		return fmt.Errorf("read size %q: %w", low, err)
	}
	if r.max, err = strconv.Atoi(high); err != nil {
		return fmt.Errorf("read size %q: %w", high, err)
	}
	if r.min < minValue || r.max < r.min || r.max > maxValue {
		return fmt.Errorf("sizes %s are not a range within %d and %d", text, minValue, maxValue)
	}
	return nil
}

// checkLoopback refuses to load anything but this machine. Names are refused
// too: what they stand for can change between this check and the dial.
func checkLoopback(addrs []string) error {
	var errs []error
	for _, addr := range addrs {
		at, err := netip.ParseAddrPort(addr)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("read address %q: %w", addr, err))
		case !at.Addr().IsLoopback() || at.Port() == 0:
			errs = append(errs, fmt.Errorf("address %s is not a port on loopback", addr))
		}
	}
	if len(addrs) == 0 {
		errs = append(errs, errors.New("no addresses"))
	}
	return errors.Join(errs...)
}
