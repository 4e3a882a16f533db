package peers

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	stoppedWithin = 10 * time.Second
	logShown      = 2 << 10 // bytes of a server's log in an error
)

// server is a process of a system. exited is closed once it has ended, which
// wait has stored the result of.
type server struct {
	name    string
	log     string // file
	stop    syscall.Signal
	process *exec.Cmd
	exited  chan struct{}
	wait    error
}

// program is how a server is run.
type program struct {
	file       string
	args       []string
	stop       syscall.Signal      // what it ends by in good order
	credential *syscall.Credential // nil: this program's own
}

// run starts a server of the system, with its log in dir.
func (s *System) run(name, dir string, p program) error {
	n := &server{name: name, log: filepath.Join(dir, name+".log"), stop: p.stop, exited: make(chan struct{})}
	log, err := os.Create(n.log)
	if err != nil {
		return fmt.Errorf("create log of %s: %w", name, err)
	}
	defer log.Close() // the process has its own
	n.process = exec.Command(p.file, p.args...)
	n.process.Dir = dir
	n.process.Stdout, n.process.Stderr = log, log
	// An interrupt at the terminal is for this program, which stops the server;
	// the server also stops if this program is killed.
	n.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: p.stop, Credential: p.credential}
	if err := n.process.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // Stop waits for it
		n.wait = n.process.Wait()
		close(n.exited)
	}()
	s.nodes = append(s.nodes, n)
	return nil
}

// Pids returns the servers' process ids. What they fork is not among them.
func (s *System) Pids() []int {
	var pids []int
	for _, n := range s.nodes {
		pids = append(pids, n.process.Process.Pid)
	}
	return pids
}

// Ended returns an error if a server has ended by itself.
func (s *System) Ended() error {
	for _, n := range s.nodes {
		select {
		case <-n.exited:
			return fmt.Errorf("%s ended by itself: %v\n%s", n.name, n.wait, n.lastWords())
		default:
		}
	}
	return nil
}

// Stop asks every server to stop, kills one that does not, with what it has
// forked, and waits for them. One that had ended by itself is an error. No connection may
// be in use.
func (s *System) Stop() error {
	for _, c := range s.shared {
		c.close()
	}
	var errs []error
	for _, n := range s.nodes {
		select {
		case <-n.exited:
			errs = append(errs, fmt.Errorf("%s had ended by itself: %v", n.name, n.wait))
		default:
			if err := n.process.Process.Signal(n.stop); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, fmt.Errorf("stop %s: %w", n.name, err))
			}
		}
	}
	limit := time.NewTimer(stoppedWithin)
	defer limit.Stop()
	expired := false
	for _, n := range s.nodes {
		if !expired {
			select {
			case <-n.exited:
				continue
			case <-limit.C:
				expired = true
			}
		}
		_ = syscall.Kill(-n.process.Process.Pid, syscall.SIGKILL) // its group, all of it
		<-n.exited
	}
	return errors.Join(errs...)
}

func (n *server) lastWords() []byte { return LastWords(n.log) }

// LastWords returns the end of a log, for an error: 2 KiB at most, in whole
// lines. If the file cannot be read, it is that error.
func LastWords(file string) []byte {
	said, err := os.ReadFile(file)
	if err != nil {
		return []byte(err.Error())
	}
	if len(said) > logShown {
		said = said[len(said)-logShown:]
		if _, rest, found := bytes.Cut(said, []byte("\n")); found {
			said = rest
		}
	}
	return said
}
