// Command onced-chaos shows whether onced keeps its promises when everything
// around it fails.
//
// `onced-chaos run` starts a cluster of real onced processes, loads it, injects
// faults, reads everything back and judges the history of all calls;
// `onced-chaos check` judges a history again; `onced-chaos selftest` shows that
// the judge sees what is wrong; `onced-chaos measure` takes the figures of how a
// cluster comes through a fault; `onced-chaos simulate` runs whole clusters in one
// process, in simulated time, by a seed.
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

// Exit statuses. Whatever kept a run from being judged is inconclusive too.
const (
	exitValid        = 0
	exitInvalid      = 1
	exitInconclusive = 2
)

func main() {
	// Nothing may end this process before it has stopped a cluster of its own.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "onced-chaos:", err)
	}
	os.Exit(statusOf(err))
}

// errInvalid marks that something is proven to be wrong.
var errInvalid = errors.New("INVALID")

func statusOf(err error) int {
	switch {
	case err == nil:
		return exitValid
	case errors.Is(err, errInvalid):
		return exitInvalid
	}
	return exitInconclusive
}

// commands is the command line.
type commands struct {
	Run      runCommand      `cmd:"" help:"Start a cluster, load it, break it, and judge what its clients saw."`
	Check    checkCommand    `cmd:"" help:"Judge the history of a run again."`
	Selftest selftestCommand `cmd:"" help:"Show that the judge sees one planted fault of each kind."`
	Measure  measureCommand  `cmd:"" help:"Take the figures of how a cluster comes through a fault."`
	Simulate simulateCommand `cmd:"" help:"Run whole clusters in simulated time, on disks, links and clocks that fail by a seed."`
}

// run is the program without its process: results go to stdout, progress to
// stderr. The error is errInvalid if something is wrong, and any other if that
// is not known.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c commands
	helped := false
	parser, err := kong.New(&c,
		kong.Name("onced-chaos"),
		kong.Description("Faults for a onced cluster, and the check of what its clients saw. Exit status: 0 valid, 1 INVALID, 2 inconclusive or not run."),
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
	if err != nil && ctx.Err() != nil && !errors.Is(err, errInvalid) {
		return fmt.Errorf("interrupted: %w", err)
	}
	return err
}

// streams are where a command writes.
type streams struct {
	out      io.Writer // results
	progress io.Writer // what is being done
}
