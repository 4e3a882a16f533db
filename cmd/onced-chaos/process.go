package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stoppedAfter is how long a node may take to stop; it is promised within 30 s.
const stoppedAfter = 35 * time.Second

// process is a node that can be started more than once.
type process struct {
	id, api, gateway string
	binary           string
	args             []string
	log              string // file, appended to

	// Of the last start. exited is closed once that has ended.
	command *exec.Cmd
	exited  chan struct{}
}

func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", p.id, err)
	}
	defer log.Close() // the process has its own
	p.command = exec.Command(p.binary, p.args...)
	p.command.Stdout, p.command.Stderr = log, log
	p.command.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ONCED_") })
	// An interrupt at the terminal is for this program, which stops the nodes.
	// They die with it, however it ends.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.id, err)
	}
	command, exited := p.command, make(chan struct{})
	p.exited = exited
	go func() {
		_ = command.Wait() // its state says how it ended
		close(exited)
	}()
	return nil
}

func (p *process) up() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(s syscall.Signal) error {
	if err := p.command.Process.Signal(s); err != nil {
		return fmt.Errorf("send %v to %s: %w", s, p.id, err)
	}
	return nil
}

// kill ends the process as a crash does, and returns how it ended.
func (p *process) kill() (ended string, err error) {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return "", err
	}
	<-p.exited
	return p.command.ProcessState.String(), nil
}

// terminate stops the process as an operator does.
func (p *process) terminate() error {
	if p.exited == nil {
		return nil
	}
	if err := errors.Join(p.resume(), p.signal(syscall.SIGTERM)); err != nil {
		return fmt.Errorf("%s had ended by itself: %w", p.id, err)
	}
	select {
	case <-p.exited:
	case <-time.After(stoppedAfter):
		_, err := p.kill()
		return errors.Join(fmt.Errorf("%s had not stopped after %v", p.id, stoppedAfter), err)
	}
	if !p.command.ProcessState.Success() {
		return fmt.Errorf("%s stopped with %v", p.id, p.command.ProcessState)
	}
	return nil
}

func (p *process) pause() error  { return p.signal(syscall.SIGSTOP) }
func (p *process) resume() error { return p.signal(syscall.SIGCONT) }

// stopped reports whether the system says that the process stands still.
func (p *process) stopped() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(rest, []byte("T"))
}
