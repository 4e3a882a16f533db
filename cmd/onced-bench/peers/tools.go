package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Versions of what is built from source.
const (
	etcdVersion = "v3.7.3"
	natsVersion = "v2.15.2"
)

// Tools say where server programs are found, and kept if they must be got.
type Tools struct {
	Dir     string // where programs are built to
	Install bool   // a missing program may be got
}

var errMissing = errors.New("not installed")

// built returns the program of a Go package, from the path, or from the
// tools' directory, where it is built if it is missing.
func (t Tools) built(ctx context.Context, name, module, at, version string) (string, error) {
	dir, err := filepath.Abs(t.Dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", t.Dir, err)
	}
	file := filepath.Join(dir, name+"-"+version)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if found, err := exec.LookPath(name); err == nil {
		return found, nil
	}
	if !t.Install {
		return "", errMissing
	}
	// A module of its own, since a module that replaces others is not built by
	// `go install`, and nothing of it is to be in this program's.
	scratch, err := os.MkdirTemp("", "onced-bench-build-")
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(scratch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, err)
	}
	partial := filepath.Join(scratch, name)
	for _, args := range [][]string{
		{"mod", "init", "peer"}, {"get", module + "@" + version}, {"build", "-o", partial, at},
	} {
		command := exec.CommandContext(ctx, "go", args...)
		command.Dir = scratch
		command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		if said, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w: %s", args[0], err, lastLine(said))
		}
	}
	if err := move(partial, file); err != nil {
		return "", err
	}
	return file, nil
}

// move moves a program, to another file system too.
func move(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	if err := os.WriteFile(to+".part", content, 0o755); err != nil {
		return fmt.Errorf("write program: %w", err)
	}
	if err := os.Rename(to+".part", to); err != nil {
		return fmt.Errorf("name program: %w", err)
	}
	return nil
}

// packaged finds a program, from Debian's package if it is missing and this
// is Debian's root.
func (t Tools) packaged(ctx context.Context, name string, find func() (string, error)) (string, error) {
	found, err := find()
	switch {
	case err == nil:
		return found, nil
	case !t.Install:
		return "", errMissing
	case os.Geteuid() != 0:
		return "", fmt.Errorf("%w, and only root can install Debian's package %s", errMissing, name)
	}
	command := exec.CommandContext(ctx, "apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60", name)
	// Installing is for the program alone: no service is to be started.
	command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if said, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install Debian's package %s: %w: %s", name, err, lastLine(said))
	}
	return find()
}

// Version returns what a server program says it is, in one line.
func Version(ctx context.Context, program string) (string, error) {
	said, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", program, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	return line, nil
}

// lastLine returns the end of what a command said, as one line.
func lastLine(said []byte) string {
	end := len(said)
	for end > 0 && said[end-1] == '\n' {
		end--
	}
	begin := end
	for begin > 0 && said[begin-1] != '\n' {
		begin--
	}
	return string(said[begin:end])
}
