package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/report"
)

// judge judges a history, writes the report into a directory and prints the
// verdict.
func judge(ctx context.Context, h *history.History, dir string, to streams) error {
	fmt.Fprintf(to.progress, "judging %d calls\n", len(h.Calls))
	v := check.Judge(ctx, h, check.Options{})
	if err := report.Write(dir, h, v); err != nil {
		return err
	}
	printVerdict(to.out, h, v, dir)
	switch v.Outcome {
	case check.Valid:
		return nil
	case check.Invalid:
		return fmt.Errorf("%w: %d findings, see %s", errInvalid, len(v.Findings), dir)
	}
	return fmt.Errorf("inconclusive: %s", strings.Join(v.Reasons, "; "))
}

func printVerdict(w io.Writer, h *history.History, v *check.Verdict, dir string) {
	shown := 0
	for _, f := range h.Faults {
		if f.Evidence != "" {
			shown++
		}
	}
	fmt.Fprintf(w, "%s: %d calls on %d keys, %d not answered; %d faults, %d of them with evidence; longest time without a success %v; seed %d\n",
		v.Outcome, v.Calls.All, v.Keys, v.Calls.Unanswered, len(h.Faults), shown, v.Availability.Longest.Length(), h.Run.Seed)
	for i, f := range v.Findings {
		if i == 5 {
			fmt.Fprintf(w, "  and %d more\n", len(v.Findings)-i)
			break
		}
		fmt.Fprintf(w, "  %s: %s (%s)\n", f.Rule, f.What, f.Key)
	}
	for _, why := range v.Reasons {
		fmt.Fprintf(w, "  %s\n", why)
	}
	fmt.Fprintf(w, "report: %s\n", filepath.Join(dir, report.Page))
}
