// Command onced-bench loads a onced cluster and reports what it did and cost.
//
// `onced-bench load` drives a running cluster; `onced-bench local` starts a
// fresh one of three nodes on loopback, drives it, checks its answers and
// removes it; `onced-bench hops` shows where the time of its keys goes;
// `onced-bench gateway` puts it in front of a service, and reaches that directly
// too; `onced-bench compare` puts the same load on other systems as well;
// `onced-bench scale` fills one level by level, and `onced-bench timeline` drives
// one through events. The client shares the machine with the servers, so it is
// built to be cheap: one goroutine and one persistent connection each, hand-built
// requests, and no more of an answer parsed than is checked.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/onced/onced/cmd/internal/timers"
)

func main() {
	// Nothing may end this process before it has stopped a cluster of its own:
	// neither a terminal that closes nor a reader of the table that leaves.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A closed loop is paced by its answers alone.
	if !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "--rate") }) {
		_ = timers.Coarsen(ctx) // without it the tool costs more, which the table shows
	}
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "onced-bench:", err)
		os.Exit(1)
	}
}

// commands is the command line.
type commands struct {
	Load  loadCommand  `cmd:"" help:"Drive a running cluster."`
	Local localCommand `cmd:"" help:"Start a fresh three-node cluster on loopback, drive it, check its answers, remove it."`

	Hops     hopsCommand     `cmd:"" help:"Start a fresh three-node cluster, and show where the time of a new key goes, hop by hop."`
	Gateway  gatewayCommand  `cmd:"" help:"Start a service and a fresh three-node cluster in front of it, and compare the service reached directly and through the gateway."`
	Compare  compareCommand  `cmd:"" help:"Start a fresh three-node cluster, etcd, NATS, PostgreSQL and Redis, one after the other, and compare them under the same load."`
	Scale    scaleCommand    `cmd:"" help:"Fill a fresh three-node cluster level by level, and compare what things cost at each."`
	Timeline timelineCommand `cmd:"" help:"Drive a fresh three-node cluster at a fixed rate through a leader's loss, a snapshot, compactions and an expiry, and show the latency over time."`
	Upstream upstreamCommand `cmd:"" hidden:"" help:"Be the service that the gateway is measured with."`
}

// run is the program without its process: results go to stdout, progress to
// stderr, and an error means exit status 1.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c commands
	helped := false
	parser, err := kong.New(&c,
		kong.Name("onced-bench"),
		kong.Description("Load for a onced cluster, on loopback only."),
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
