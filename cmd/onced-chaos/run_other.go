//go:build !linux

package main

import (
	"context"
	"errors"
)

// runCommand is refused: its faults are made with what Linux has.
type runCommand struct{}

// Run says so.
func (*runCommand) Run(context.Context, streams) error {
	return errors.New("faults can be made on Linux only")
}
