// Package report writes what came of a run: a page to read, a plot, and for each
// thing that is wrong the part of the history that shows it.
package report

import (
	"bytes"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/onced/onced/chaos/check"
	"github.com/onced/onced/chaos/history"
)

// The files of a report, in its directory.
const (
	Page     = "report.html"
	Plot     = "plot.png"
	Findings = "findings" // a directory, if there are any
)

//go:embed page.html
var files embed.FS

var page = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"short": func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	"join":  func(all []string) string { return strings.Join(all, ", ") },
}).ParseFS(files, "page.html"))

// view is what the page shows.
type view struct {
	History *history.History
	Verdict *check.Verdict
	Faults  []faultRow
	Plot    template.URL
	Terms   int // elections that were seen to end
	Took    time.Duration
}

type faultRow struct {
	*history.Fault
	Gap check.Gap
}

// Write writes the report of a history and its verdict into a directory. What
// an earlier one found is removed.
func Write(dir string, h *history.History, v *check.Verdict) error {
	var plot bytes.Buffer
	if err := plotTo(&plot, h); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, Plot), plot.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write plot: %w", err)
	}
	seen := view{History: h, Verdict: v, Took: v.Took, Plot: template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(plot.Bytes()))}
	for i, f := range h.Faults {
		seen.Faults = append(seen.Faults, faultRow{f, v.Availability.PerFault[i]})
	}
	for i, l := range h.Leaders {
		if i > 0 && l.Term > h.Leaders[i-1].Term {
			seen.Terms++
		}
	}
	var html bytes.Buffer
	if err := page.Execute(&html, seen); err != nil {
		return fmt.Errorf("make page: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, Page), html.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return writeFindings(filepath.Join(dir, Findings), h, v)
}

func writeFindings(dir string, h *history.History, v *check.Verdict) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove earlier findings: %w", err)
	}
	if len(v.Findings) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for i, f := range v.Findings {
		name := filepath.Join(dir, fmt.Sprintf("%02d-%s", i+1, f.Rule))
		if err := os.WriteFile(name+".txt", []byte(tell(h, f)), 0o600); err != nil {
			return fmt.Errorf("write finding: %w", err)
		}
		if err := writeHistory(name+".ndjson", part(h, f)); err != nil {
			return err
		}
	}
	return nil
}

// part is the history of one key, all of it: it can be judged by itself.
func part(h *history.History, f check.Finding) *history.History {
	p := &history.History{Run: h.Run, Faults: h.Faults, Leaders: h.Leaders}
	if f.Key == (history.Key{}) {
		p.States = h.States
		return p
	}
	for _, c := range h.Calls {
		if c.Of() == f.Key {
			p.Calls = append(p.Calls, c)
		}
	}
	for _, e := range h.Effects {
		if e.Of() == f.Key {
			p.Effects = append(p.Effects, e)
		}
	}
	return p
}

func writeHistory(name string, h *history.History) (err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write finding: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return history.Write(file, h)
}

func tell(h *history.History, f check.Finding) string {
	b := fmt.Sprintf("rule  %s\nkey   %s\nseed  %d\n\n%s\n\n", f.Rule, f.Key, h.Run.Seed, f.What)
	for _, c := range f.Calls {
		b += c.Line() + "\n"
	}
	for _, e := range f.Effects {
		b += e.Line() + "\n"
	}
	return b
}
