// Command onced-chaos proves what onced promises: it breaks a cluster in every
// way there is and judges what its clients saw.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "onced-chaos:", err)
		os.Exit(1)
	}
}

// commands is the command line.
type commands struct {
	Simulate simulateCommand `cmd:"" help:"Run whole clusters in simulated time, on disks, links and clocks that fail by a seed."`
}

// run is the program without its process: results go to stdout, progress to
// stderr, and an error means exit status 1.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c commands
	helped := false
	parser, err := kong.New(&c,
		kong.Name("onced-chaos"),
		kong.Description("Faults for a onced cluster, and the judgement of what its clients saw."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
	)
	if err != nil {
		return fmt.Errorf("build command line: %w", err)
	}
	command, err := parser.Parse(args)
	switch {
	case helped:
		return nil
	case err != nil:
		return fmt.Errorf("read arguments: %w", err)
	}
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run(streams{out: stdout, progress: stderr})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// streams are where a command writes.
type streams struct {
	out      io.Writer // results
	progress io.Writer // what is being done
}
