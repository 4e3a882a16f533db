//go:build !linux

package main

import (
	"context"
	"errors"
)

// measureCommand is refused: its faults are made with what Linux has.
type measureCommand struct{}

// Run says so.
func (*measureCommand) Run(context.Context, streams) error {
	return errors.New("faults can be made on Linux only")
}
