//go:build linux

// Package netns makes a network of hosts on one machine: each host has a
// network namespace, and all are joined by a switch, in whose namespace the
// clients live. Links between them can be cut, lose packets or be slow.
//
// It needs root, and the programs ip and iptables. The namespaces have no names:
// they are held open by descriptors of this process, so the kernel removes all
// of it, cuts included, when the process and what it started there have ended.
// Nothing is ever put into the namespace that the program itself runs in.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Network is hosts joined by a switch.
type Network struct {
	// Hosts are the machines; Clients is the switch's own address, where
	// those live who are on no host.
	Hosts   []*Host
	Clients *Host
}

// Host is one machine of a Network.
type Host struct {
	Name  string
	IP    string // in 10.77.0.0/24
	space *space
}

const (
	maxHosts   = 200
	clientsIP  = "10.77.0.254"
	switchName = "br0"
)

// New makes a network of n hosts, without any cut.
func New(ctx context.Context, n int) (_ *Network, err error) {
	if n < 1 || n > maxHosts {
		return nil, fmt.Errorf("make network of %d hosts: use 1 to %d", n, maxHosts)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("make network: only root may make network namespaces")
	}
	net := &Network{}
	defer func() {
		if err != nil {
			err = errors.Join(err, net.Close())
		}
	}()
	if net.Clients, err = newHost(ctx, "clients", clientsIP); err != nil {
		return nil, err
	}
	err = net.Clients.ip(ctx,
		"link add "+switchName+" type bridge", "link set "+switchName+" up", "addr add "+clientsIP+"/24 dev "+switchName)
	if err != nil {
		return nil, err
	}
	for i := range n {
		h, err := newHost(ctx, fmt.Sprintf("h%d", i+1), fmt.Sprintf("10.77.0.%d", i+1))
		if err != nil {
			return nil, err
		}
		net.Hosts = append(net.Hosts, h)
		if err := net.plugIn(ctx, h); err != nil {
			return nil, err
		}
	}
	return net, nil
}

func newHost(ctx context.Context, name, ip string) (*Host, error) {
	s, err := newSpace()
	if err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, err)
	}
	h := &Host{Name: name, IP: ip, space: s}
	if err := h.ip(ctx, "link set lo up"); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return h, nil
}

// plugIn joins h and the switch by a cable.
func (n *Network) plugIn(ctx context.Context, h *Host) error {
	err := n.Clients.ip(ctx,
		fmt.Sprintf("link add %s type veth peer name e0 netns %s", h.Name, h.space.path()),
		fmt.Sprintf("link set %s master %s up", h.Name, switchName))
	if err != nil {
		return err
	}
	return h.ip(ctx, "addr add "+h.IP+"/24 dev e0", "link set e0 up")
}

// Close lets go of the namespaces. They stay as long as a process or a socket
// is in them.
func (n *Network) Close() error {
	var errs []error
	for _, h := range append([]*Host{n.Clients}, n.Hosts...) {
		if h != nil {
			errs = append(errs, h.space.close())
		}
	}
	return errors.Join(errs...)
}

// Others are the hosts other than h.
func (n *Network) Others(h *Host) (others []*Host) {
	for _, o := range n.Hosts {
		if o != h {
			others = append(others, o)
		}
	}
	return others
}

// DialContext connects from where the clients live. The address is an IP and a
// port: names are not looked up there.
func (n *Network) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	return n.Clients.DialContext(ctx, network, addr)
}

// DialContext connects from this host.
func (h *Host) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = h.space.do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens on a port of this host; port 0 is a free one.
func (h *Host) Listen(ctx context.Context, port int) (l net.Listener, err error) {
	err = h.space.do(func() error {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", h.At(port))
		return err
	})
	return l, err
}

// At is the address of a port on this host.
func (h *Host) At(port int) string { return fmt.Sprintf("%s:%d", h.IP, port) }

// Start starts cmd on this host. The process is cmd's own, not that of a
// program in between.
func (h *Host) Start(cmd *exec.Cmd) error { return h.space.do(cmd.Start) }

// ip runs the program ip on this host, once for each line.
func (h *Host) ip(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if _, err := h.run(ctx, "", "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program on this host and returns what it prints.
func (h *Host) run(ctx context.Context, input, program string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	err := h.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s on %s: %w: %s", program, strings.Join(args, " "), h.Name, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// space is a network namespace, held open by a descriptor.
type space struct{ inside, outside *os.File }

const threadSpace = "/proc/thread-self/ns/net"

func newSpace() (*space, error) {
	outside, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	s := &space{outside: outside}
	err = s.thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
		s.inside, err = os.Open(threadSpace)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// path names the namespace for other programs, while this one holds it.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.inside.Fd()) }

// do calls f on a thread that is in the namespace. What f opens and starts is
// there, and stays there.
func (s *space) do(f func() error) error {
	return s.thread(func() error {
		if err := unix.Setns(int(s.inside.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return f()
	})
}

// thread calls f on a thread of its own, which f may take to another
// namespace. A thread that cannot be brought back is not used again: the
// goroutine ends with it locked, and the runtime ends the thread.
func (s *space) thread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := f()
		if back := unix.Setns(int(s.outside.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("leave namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func (s *space) close() error {
	err := s.outside.Close()
	if s.inside != nil {
		err = errors.Join(err, s.inside.Close())
	}
	return err
}
