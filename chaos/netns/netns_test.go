//go:build linux

package netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: reaching it is a failure, never a verdict about
// speed.
const patience = 30 * time.Second

// lab is a network with a socket for datagrams on each host and with the
// clients.
type lab struct {
	*testing.T
	*Network
	sockets map[*Host]*net.UDPConn
}

const labPort = 7000

func newLab(t *testing.T, hosts int) *lab {
	t.Helper()
	n, err := New(t.Context(), hosts)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, Network: n, sockets: map[*Host]*net.UDPConn{}}
	t.Cleanup(func() {
		for _, s := range l.sockets {
			s.Close()
		}
		l.must(n.Close())
	})
	for _, h := range append(slices.Clone(n.Hosts), n.Clients) {
		l.must(h.space.do(func() error {
			s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(h.IP), Port: labPort})
			l.sockets[h] = s
			return err
		}))
	}
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) send(link Link, text string) {
	l.Helper()
	_, err := l.sockets[link.From].WriteToUDP([]byte(text), &net.UDPAddr{IP: net.ParseIP(link.To.IP), Port: labPort})
	l.must(err)
}

// receives is what comes next to h.
func (l *lab) receives(h *Host) string {
	l.Helper()
	b := make([]byte, 100)
	l.must(l.sockets[h].SetReadDeadline(time.Now().Add(patience)))
	n, err := l.sockets[h].Read(b)
	l.must(err)
	return string(b[:n])
}

// passes fails the test unless what is sent over link is the next that comes.
func (l *lab) passes(link Link) {
	l.Helper()
	sent.Add(1)
	text := fmt.Sprintf("%s to %s, %d", link.From.Name, link.To.Name, sent.Load())
	l.send(link, text)
	if got := l.receives(link.To); got != text {
		l.Fatalf("%q arrived, want %q", got, text)
	}
}

var sent atomic.Int64

func (l *lab) allLinks() (links []Link) {
	for _, h := range l.Hosts {
		links = append(links, Into(h, l.Everyone(h)...)...)
	}
	return append(links, Into(l.Clients, l.Hosts...)...)
}

// meets waits until the trouble has met n packets.
func (l *lab) meets(t *Trouble, n uint64) {
	l.Helper()
	for deadline := time.Now().Add(patience); ; {
		got, err := t.Packets(l.Context())
		l.must(err)
		if got == n {
			return
		}
		if got > n || time.Now().After(deadline) {
			l.Fatalf("%d packets met it, want %d", got, n)
		}
	}
}

func TestACutStopsItsLinksAndNoOthers(t *testing.T) {
	l := newLab(t, 3)
	a, b, c := l.Hosts[0], l.Hosts[1], l.Hosts[2]
	for name, links := range map[string][]Link{
		"a pair":                   Both(a, b),
		"one direction of a pair":  {{From: a, To: b}},
		"a host from all":          Both(a, l.Everyone(a)...),
		"a host from its peers":    Both(a, b, c),
		"a host hears no peer":     Into(a, b, c),
		"no peer hears a host":     OutOf(a, b, c),
		"the clients from a host":  Both(l.Clients, c),
		"everyone from everywhere": l.allLinks(),
	} {
		t.Run(name, func(t *testing.T) {
			l := &lab{t, l.Network, l.sockets}
			cut, err := l.Cut(t.Context(), links...)
			l.must(err)
			for _, link := range links {
				l.send(link, "lost")
				l.send(link, "lost too")
			}
			for _, link := range l.allLinks() {
				if !slices.Contains(links, link) {
					l.passes(link) // what was lost did not come before it
				}
			}
			l.meets(cut, uint64(2*len(links)))
			l.must(cut.Heal(t.Context()))
			l.must(cut.Heal(t.Context()))
			for _, link := range l.allLinks() {
				l.passes(link)
			}
		})
	}
}

func TestCutsOfTheSameLinkAreHealedOneByOne(t *testing.T) {
	l := newLab(t, 2)
	link := Link{l.Hosts[0], l.Hosts[1]}
	first, err := l.Cut(t.Context(), link)
	l.must(err)
	second, err := l.Cut(t.Context(), link)
	l.must(err)
	l.must(first.Heal(t.Context()))
	l.send(link, "lost")
	l.meets(second, 1)
	l.must(second.Heal(t.Context()))
	l.passes(link)
}

func TestLossDropsAShareOfThePackets(t *testing.T) {
	l := newLab(t, 2)
	link := Link{l.Hosts[0], l.Hosts[1]}
	loss, err := l.Lose(t.Context(), 0.3, link)
	l.must(err)
	const n = 500
	var met, lost uint64
	arrived := 0
	for range n { // few at a time: a socket holds no more than some hundred
		l.send(link, "perhaps")
		arrived += l.arrived(link.To)
	}
	for deadline := time.Now().Add(patience); met < n; met = lost + uint64(arrived) {
		if time.Now().After(deadline) {
			t.Fatalf("%d packets were lost and %d arrived, of %d", lost, arrived, n)
		}
		lost, err = loss.Packets(t.Context())
		l.must(err)
		arrived += l.arrived(link.To)
	}
	// 0.3 of 500 is 150; eight standard deviations are 82.
	if lost < 68 || lost > 232 {
		t.Errorf("%d of %d packets were lost", lost, n)
	}
	l.must(loss.Heal(t.Context()))
	for _, wrong := range []float64{0, -1, 1.1} {
		if _, err := l.Lose(t.Context(), wrong, link); err == nil {
			t.Errorf("a loss of %v is taken", wrong)
		}
	}
}

// arrived counts what has come to h since it was last asked, and hardly waits.
func (l *lab) arrived(h *Host) (n int) {
	l.must(l.sockets[h].SetReadDeadline(time.Now().Add(time.Millisecond)))
	for b := make([]byte, 100); ; n++ {
		if _, err := l.sockets[h].Read(b); err != nil {
			return n
		}
	}
}

func TestADelayedPacketIsOvertakenAndArrivesWhenHealed(t *testing.T) {
	l := newLab(t, 2)
	link := Link{l.Hosts[0], l.Hosts[1]}
	n := 0
	delay, err := l.Delay(t.Context(), func() time.Duration {
		if n++; n == 1 {
			return time.Hour
		}
		return time.Millisecond
	}, link)
	l.must(err)
	for _, text := range []string{"first", "second", "third"} {
		l.send(link, text)
	}
	for _, want := range []string{"second", "third"} {
		if got := l.receives(link.To); got != want {
			t.Errorf("%q arrived, want %q", got, want)
		}
	}
	l.passes(Link{link.To, link.From})
	l.meets(delay, 3)
	l.must(delay.Heal(t.Context()))
	if got := l.receives(link.To); got != "first" {
		t.Errorf("%q arrived, want first", got)
	}
	l.passes(link)
}

func TestALinkThatIsSlowCanBeCut(t *testing.T) {
	l := newLab(t, 2)
	link := Link{l.Hosts[0], l.Hosts[1]}
	delay, err := l.Delay(t.Context(), func() time.Duration { return time.Millisecond }, link)
	l.must(err)
	cut, err := l.Cut(t.Context(), link)
	l.must(err)
	l.send(link, "lost")
	l.meets(cut, 1)
	l.meets(delay, 0)
	l.must(cut.Heal(t.Context()))
	l.passes(link)
	l.meets(delay, 1)
	l.must(delay.Heal(t.Context()))
}

func TestConnectionsAreMadeFromTheClientsToAHost(t *testing.T) {
	l := newLab(t, 2)
	listener, err := l.Hosts[1].Listen(t.Context(), 0)
	l.must(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	ask := func(dial func(ctx context.Context, network, addr string) (net.Conn, error)) string {
		t.Helper()
		transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
		res, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + listener.Addr().String())
		l.must(err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		l.must(err)
		return string(b)
	}
	if from := ask(l.DialContext); !strings.HasPrefix(from, l.Clients.IP+":") {
		t.Errorf("the clients come from %s", from)
	}
	if from := ask(l.Hosts[0].DialContext); !strings.HasPrefix(from, l.Hosts[0].IP+":") {
		t.Errorf("the first host comes from %s", from)
	}
	reset, err := l.Reset(t.Context(), Link{l.Clients, l.Hosts[1]})
	l.must(err)
	if conn, err := l.DialContext(t.Context(), "tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("a connection that is reset was made")
	}
	l.must(reset.Heal(t.Context()))
	ask(l.DialContext)
}

func TestAProgramIsOnItsHostAloneAndTheOthersSeeNothing(t *testing.T) {
	interfaces := func() (names []string) {
		list, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			names = append(names, i.Name)
		}
		return names
	}
	before := interfaces()
	l := newLab(t, 2)
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "ip", "-brief", "-4", "address")
	cmd.Stdout = &out
	l.must(l.Hosts[1].Start(cmd))
	l.must(cmd.Wait())
	if !strings.Contains(out.String(), "10.77.0.2/24") || strings.Contains(out.String(), "10.77.0.1/24") {
		t.Errorf("the second host has %s", &out)
	}
	if after := interfaces(); !slices.Equal(after, before) {
		t.Errorf("the program's own namespace has %q, had %q", after, before)
	}
}

func FuzzPacketIDs(f *testing.F) {
	head := func(size byte) []byte { return append([]byte{size, 0, 0, 0, 0, 3}, make([]byte, 14)...) }
	f.Add(append(head(28), 8, 0, 1, 0, 0, 0, 0, 7))
	f.Add(append(head(20), head(16)...))
	f.Add(append(head(28), 3, 0, 1, 0, 0, 0, 0, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ids := packetIDs(b); len(ids) > len(b)/28 {
			t.Errorf("%d packets in %d bytes", len(ids), len(b))
		}
	})
}
