package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/onced/onced/chaos/history"
)

// checkCommand judges a history that a run has left.
type checkCommand struct {
	History string `arg:"" help:"The history, history.ndjson in the directory of a run."`
	Out     string `placeholder:"DIR" help:"Where the report is written. Default: beside the history."`
}

// Run judges and writes the report.
func (c *checkCommand) Run(ctx context.Context, to streams) error {
	file, err := os.Open(c.History)
	if err != nil {
		return fmt.Errorf("open history: %w", err)
	}
	defer file.Close()
	h, err := history.Read(file)
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = filepath.Dir(c.History)
	}
	if err := os.MkdirAll(c.Out, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return judge(ctx, h, c.Out, to)
}
