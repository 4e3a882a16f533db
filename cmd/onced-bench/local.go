package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// clusterOptions say what a cluster of this program's own is made of.
type clusterOptions struct {
	Onced    string   `help:"The onced binary; without it, onced beside this program, or else one built from ./cmd/onced." placeholder:"FILE"`
	Dir      string   `help:"Where the cluster's directory is made, and removed again; its disk is what is measured. Default: the system's place for temporary files." placeholder:"DIR"`
	ServeArg []string `sep:"none" help:"A further flag for every node, such as --serve-arg=--log-store=bolt. Can be repeated." placeholder:"FLAG"`
}

// localCommand drives a cluster of its own and accepts no failure.
type localCommand struct {
	clusterOptions
	loadOptions
}

// Run starts the cluster, drives it, checks that it stops as it should, and
// removes what it kept.
func (l *localCommand) Run(ctx context.Context, to streams) error {
	if err := l.check(); err != nil {
		return err
	}
	return l.withCluster(ctx, to, "", func(c *localCluster) error {
		failures, err := newBench(l.loadOptions, c.addrs(), c.pids()).run(ctx, to)
		if err == nil && len(failures) > 0 {
			err = fmt.Errorf("operations failed: %s", tell(failures))
		}
		return err
	})
}

// withCluster starts a cluster, with its gateways in front of upstream unless
// that is empty, lets use have it, and removes it. That it does not stop as it
// should is an error too.
func (o *clusterOptions) withCluster(ctx context.Context, to streams, upstream string, use func(*localCluster) error) (err error) {
	dir, err := os.MkdirTemp(o.Dir, "onced-bench-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	binary, err := o.binary(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(to.progress, "starting three nodes of %s in %s\n", binary, dir)
	c, err := startCluster(ctx, binary, dir, upstream, o.ServeArg)
	if err != nil {
		return fmt.Errorf("start cluster: %w", err)
	}
	return errors.Join(use(c), c.stop())
}

// binary returns the onced to run, building one into dir if it must.
func (o *clusterOptions) binary(ctx context.Context, dir string) (string, error) {
	if o.Onced != "" {
		return filepath.Abs(o.Onced)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	beside := filepath.Join(filepath.Dir(self), "onced")
	_, err = os.Stat(beside)
	if err == nil {
		return beside, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find onced: %w", err)
	}
	built := filepath.Join(dir, "onced")
	build := exec.CommandContext(ctx, "go", "build", "-o", built, "github.com/onced/onced/cmd/onced")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build onced: %w\n%s", err, said)
	}
	return built, nil
}
