//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Link is the way of packets from one host to another, in this direction only.
type Link struct{ From, To *Host }

// Both are the links between a and each of others, in both directions.
func Both(a *Host, others ...*Host) []Link {
	return append(Into(a, others...), OutOf(a, others...)...)
}

// Into are the links to a from each of others.
func Into(a *Host, others ...*Host) (links []Link) {
	for _, b := range others {
		links = append(links, Link{From: b, To: a})
	}
	return links
}

// OutOf are the links from a to each of others.
func OutOf(a *Host, others ...*Host) (links []Link) {
	for _, b := range others {
		links = append(links, Link{From: a, To: b})
	}
	return links
}

// Everyone is all that h has links to: the other hosts, and the clients.
func (n *Network) Everyone(h *Host) []*Host { return append(n.Others(h), n.Clients) }

// Trouble is what was done to some links. Several may be in force at once, on
// the same links too: each is healed by itself.
type Trouble struct {
	name  string           // marks its rules
	rules map[*Host]string // what iptables-restore adds, by receiving host
	queue []*queue         // of the packets that are held
}

// named counts the troubles of this process, whose names must differ.
var named atomic.Uint64

// Cut drops every packet on links. Connections stay open and fall silent, as
// when a cable is pulled.
func (n *Network) Cut(ctx context.Context, links ...Link) (*Trouble, error) {
	return stop(ctx, links, "-j DROP")
}

// Lose drops a share of the packets on links, between 0 and 1, by chance.
func (n *Network) Lose(ctx context.Context, share float64, links ...Link) (*Trouble, error) {
	if share <= 0 || share > 1 {
		return nil, fmt.Errorf("lose %v of the packets: use more than 0, at most 1", share)
	}
	target := fmt.Sprintf("-m statistic --mode random --probability %.6f -j DROP", share)
	return stop(ctx, links, target)
}

// Reset answers every packet of a connection on links with a reset.
func (n *Network) Reset(ctx context.Context, links ...Link) (*Trouble, error) {
	return stop(ctx, links, "-p tcp -j REJECT --reject-with tcp-reset")
}

// Delay holds each packet on links for as long as delay says at that time. Where
// it says different times, packets overtake one another. It is done by this
// process, for the kernel need not have netem: it is called on one goroutine
// for each receiving host.
func (n *Network) Delay(ctx context.Context, delay func() time.Duration, links ...Link) (*Trouble, error) {
	t := &Trouble{}
	queues := map[*Host]*queue{}
	for _, l := range links {
		if queues[l.To] != nil {
			continue
		}
		q, err := l.To.openQueue(delay)
		if err != nil {
			return nil, errors.Join(err, t.release())
		}
		queues[l.To] = q
		t.queue = append(t.queue, q)
	}
	// Behind all others: a packet that a queue lets go meets no rule after it.
	err := t.add(ctx, "-A", links, func(to *Host) string {
		return fmt.Sprintf("-j NFQUEUE --queue-num %d --queue-bypass", queues[to].number)
	})
	if err != nil {
		return nil, errors.Join(err, t.release())
	}
	return t, nil
}

// stop has packets on links end at a target, before they are held by any Delay.
func stop(ctx context.Context, links []Link, target string) (*Trouble, error) {
	t := &Trouble{}
	if err := t.add(ctx, "-I", links, func(*Host) string { return target }); err != nil {
		return nil, err
	}
	return t, nil
}

// add puts a rule for each link at its receiving end, in front of those that are
// there (-I) or behind them (-A). Of each host all rules begin to hold at once.
func (t *Trouble) add(ctx context.Context, where string, links []Link, target func(to *Host) string) error {
	t.name = fmt.Sprintf("trouble-%d", named.Add(1))
	t.rules = map[*Host]string{}
	for _, l := range links {
		t.rules[l.To] += fmt.Sprintf(" INPUT -s %s/32 -m comment --comment %s %s\n", l.From.IP, t.name, target(l.To))
	}
	for h := range t.rules {
		if err := t.change(ctx, h, where); err != nil {
			return errors.Join(err, t.Heal(context.WithoutCancel(ctx)))
		}
	}
	return nil
}

// change adds (-I, -A) or deletes (-D) the rules of a host.
func (t *Trouble) change(ctx context.Context, h *Host, how string) error {
	lines := strings.Split(strings.TrimSuffix(t.rules[h], "\n"), "\n")
	input := "*filter\n" + how + strings.Join(lines, "\n"+how) + "\nCOMMIT\n"
	_, err := h.run(ctx, input, "iptables-restore", "--noflush")
	return err
}

// Packets is how many packets it has met so far, summed over the links.
func (t *Trouble) Packets(ctx context.Context) (total uint64, err error) {
	for h := range t.rules {
		out, err := h.run(ctx, "", "iptables-save", "-c", "-t", "filter")
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(out) {
			total += packetsOf(line, t.name)
		}
	}
	return total, nil
}

// packetsOf is the count in a line of iptables-save, "[packets:bytes] -A …", or
// 0 if the line is no rule with this comment.
func packetsOf(line, comment string) uint64 {
	head, rule, _ := strings.Cut(line, " ")
	if !strings.Contains(rule, "--comment "+comment+" ") {
		return 0
	}
	count, _, _ := strings.Cut(strings.TrimPrefix(head, "["), ":")
	n, err := strconv.ParseUint(count, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Heal makes an end of it. Packets that are held go on at once. A second call
// does nothing.
func (t *Trouble) Heal(ctx context.Context) error {
	var errs []error
	for h := range t.rules {
		// A host on which the rules were not yet added refuses this.
		if err := t.change(ctx, h, "-D"); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(t.rules, h)
	}
	return errors.Join(append(errs, t.release())...)
}

// release lets the packets that are held go on.
func (t *Trouble) release() error {
	var errs []error
	for _, q := range t.queue {
		errs = append(errs, q.close())
	}
	t.queue = nil
	return errors.Join(errs...)
}
