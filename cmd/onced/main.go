// Command onced runs a node of a replicated idempotency service, and looks
// after one that runs: see "onced --help".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a graceful stop. From then on signals have
	// their default effect, so that a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	// What onced has to say goes through slog. This is what net/http says by
	// itself, with bytes of answers in it.
	log.SetOutput(io.Discard)
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "onced:", oneLine(err))
		os.Exit(1)
	}
}

// cli is the whole command line. The flags of serve are its environment
// (ONCED_…) and its YAML file as well.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run a node. With no flags: a working single node."`
	Status  statusCmd  `cmd:"" help:"Show the nodes of a cluster."`
	Key     keyCmd     `cmd:"" help:"Claim, finish, read and forget keys."`
	Node    nodeCmd    `cmd:"" help:"List, add and remove nodes, and move the leadership."`
	Backup  backupCmd  `cmd:"" help:"Write a consistent copy of everything stored to a file."`
	Restore restoreCmd `cmd:"" help:"Fill a new data directory from a backup, before the first start."`
	Config  configCmd  `cmd:"" help:"Check a YAML file of settings, and show which settings are in force."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// session is what a command runs with.
type session struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	command, err := parse(&cli{}, args, stdout)
	if command == nil || err != nil {
		return err
	}
	err = command.Run(&session{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// parse fills c. The command that it returns is nil where the line asked for
// help, which has been printed then.
func parse(c *cli, args []string, stdout io.Writer) (*kong.Context, error) {
	// Kong would put U+FFFD for what is no text: two keys, or two
	// fingerprints, that differ could so become the same.
	for _, arg := range args {
		if !utf8.ValidString(arg) {
			return nil, fmt.Errorf("the argument %+q is not valid UTF-8: give a body that is no text as --body @FILE", arg)
		}
	}
	helped := false
	parser, err := kong.New(c,
		kong.Name("onced"),
		kong.Description("onced makes POST requests idempotent: nodes share one replicated store of keys and responses."),
		kong.PostBuild(nameEnvironment),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		return nil, fmt.Errorf("build command line: %w", err)
	}
	command, err := parser.Parse(args)
	switch {
	case helped:
		return nil, nil
	case err != nil:
		return nil, explainUsage(err)
	}
	return command, nil
}

// nameEnvironment gives each flag of serve its variable, for config print too.
// The other commands' flags have none: what a node is started with is nothing
// for them.
func nameEnvironment(k *kong.Kong) error {
	for _, command := range k.Model.Leaves(true) {
		if path := command.Path(); path != "serve" && path != "config print" {
			continue
		}
		for _, flag := range command.Flags {
			name := "ONCED_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
			flag.Envs, flag.Tag.Envs = []string{name}, []string{name}
		}
	}
	return nil
}

// explainUsage names the help that belongs to a mistake on the command line.
func explainUsage(err error) error {
	var parse *kong.ParseError
	if !errors.As(err, &parse) || errors.Is(err, errConfigFile) {
		return err
	}
	command := "onced"
	if parse.Context != nil && parse.Context.Selected() != nil {
		command += " " + parse.Context.Selected().Path()
		command = strings.ReplaceAll(command, "onced onced", "onced")
	}
	return fmt.Errorf("%w (see: %s --help)", err, command)
}

// oneLine is err's text without line ends: several mistakes found at once, or
// a text from elsewhere, stay one line in a log.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
