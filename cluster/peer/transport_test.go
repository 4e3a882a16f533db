package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/onced/onced/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each line on c with who sent it, until c ends.
func echo(_ context.Context, c net.Conn, from string) {
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		fmt.Fprintf(c, "%s: %s\n", from, lines.Text())
	}
}

// wantEcho checks that c leads to an echo and that it knows who asks.
func wantEcho(t *testing.T, c net.Conn, from string) {
	t.Helper()
	fmt.Fprintln(c, "hello")
	got, err := bufio.NewReader(c).ReadString('\n')
	if want := from + ": hello\n"; got != want || err != nil {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

// wantHungUp checks that the far end closes c.
func wantHungUp(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	if e := net.Error(nil); err == nil || errors.As(err, &e) && e.Timeout() {
		t.Errorf("the connection is open: %v", err)
	}
}

func wantRefusal(t *testing.T, err error, want Code, by string) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) || r.Code != want || r.By != by {
		t.Errorf("error %v, want a refusal with code %d by %s", err, want, by)
	}
}

// connect dials n as member from does, without being a member's transport.
func (n *node) connect(p preface) (net.Conn, answer) {
	t := n.s.t
	t.Helper()
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(p.append(nil)); err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(c)
	if err != nil {
		t.Fatal(err)
	}
	return c, a
}

func TestCommandsReachTheirHandlerWithWhoSentThem(t *testing.T) {
	s := formedSite(t)
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	_, err := n1.t.DialCommands(n1.ctx(), "n2")
	wantRefusal(t, err, CodeNotReady, "n2")
	n2.t.HandleCommands(echo)
	c, err := n1.t.DialCommands(n1.ctx(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	wantEcho(t, c, "n1")
	_, err = n1.t.DialCommands(n1.ctx(), "n9")
	wantError(t, err, "n9", "no member")
}

func TestRaftDialsByAddressAndAccepts(t *testing.T) {
	s := formedSite(t)
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	dialer := n1.t.RaftLayer()
	_, err := dialer.Dial(raft.ServerAddress(n2.addr), time.Second)
	wantRefusal(t, err, CodeNotReady, "n2")

	layer := n2.t.RaftLayer()
	if layer.Addr().String() != n2.addr {
		t.Errorf("raft's address is %s, want %s", layer.Addr(), n2.addr)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := layer.Accept()
			if err != nil {
				return
			}
			echo(t.Context(), c, "raft")
			c.Close()
		}
	}()
	c, err := dialer.Dial(raft.ServerAddress(n2.addr), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	wantEcho(t, c, "raft")
	c.Close()
	_, err = dialer.Dial("127.0.0.1:1", time.Second)
	wantError(t, err, "no member of this cluster has that address")

	if err := layer.Close(); err != nil {
		t.Fatal(err)
	}
	<-served
	_, err = dialer.Dial(raft.ServerAddress(n2.addr), time.Second)
	wantRefusal(t, err, CodeNotReady, "n2")
}

func TestNodeWithoutItsDataNeitherDialsNorAnswersForRaft(t *testing.T) {
	s := formedSite(t)
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	n1.t.RaftLayer()
	n2.wipe().t.RaftLayer()
	_, err := n1.t.RaftLayer().Dial(raft.ServerAddress(n2.addr), time.Second)
	wantRefusal(t, err, CodeReplaced, "n2")
	n1.says("a peer refuses this node", "peer=n2", "n2 runs on another data directory than n1 knows it by: remove it with `onced node remove n2`", "--join "+n1.addr)
	n2.says("refused a peer", "peer=n1", "for=raft")
	_, err = n2.t.RaftLayer().Dial(raft.ServerAddress(n1.addr), time.Second)
	wantError(t, err, "no member of this cluster")

	cluster, _ := n1.t.Roster()
	_, a := n1.connect(preface{
		Purpose: forRaft, ID: "n2", Incarnation: tag(n2.dir.Incarnation()), Cluster: tag(cluster),
		WantID: "n1", WantIncarnation: tag(n1.dir.Incarnation()),
	})
	if a.Code != CodeReplaced {
		t.Errorf("answer %+v", a)
	}
}

func TestConnectionsOfAMemberThatLeftAreClosed(t *testing.T) {
	s := formedSite(t)
	n1, n2, n3 := s.nodes["n1"], s.nodes["n2"], s.nodes["n3"]
	for _, n := range s.nodes {
		n.t.HandleCommands(echo)
	}
	dial := func(from, to *node) net.Conn {
		c, err := from.t.DialCommands(from.ctx(), to.id)
		if err != nil {
			t.Fatal(err)
		}
		wantEcho(t, c, from.id)
		return c
	}
	in, out, stays := dial(n2, n1), dial(n1, n2), dial(n3, n1)
	cluster, three := n1.t.Roster()
	n1.t.SetMembers(cluster, []*fsm.Member{three[0], three[2]}, 9)
	wantHungUp(t, in)
	wantHungUp(t, out)
	wantEcho(t, stays, "n3")
	_, err := n2.t.DialCommands(n2.ctx(), "n1")
	wantRefusal(t, err, CodeNotMember, "n1")
	n2.says("a peer refuses this node", "peer=n1", "if it was removed")

	n1.t.SetMembers(cluster, three, 8)
	if _, members := n1.t.Roster(); len(members) != 2 {
		t.Errorf("an older table replaced a newer one: %v", members)
	}
	n1.restart()
	if _, members := n1.t.Roster(); len(members) != 2 {
		t.Errorf("after a restart the table is %v", members)
	}
}

func TestMemberThatLeftWhileItWasDialledIsNotConnected(t *testing.T) {
	s := formedSite(t)
	n1 := s.nodes["n1"]
	_, members := n1.t.Roster()
	gone := member{ID: members[1].Id, Incarnation: wiped}
	wantError(t, n1.t.own(&conn{t: n1.t, peer: gone}, forRaft), "n2 is no member of this cluster any more")
}

func TestTableThatCannotBeUsedChangesNothing(t *testing.T) {
	s := formedSite(t)
	n1 := s.nodes["n1"]
	cluster, three := n1.t.Roster()
	n1.t.SetMembers(tag{9}.bytes(), three, 9)
	n1.says("the state of another cluster", "level=ERROR")
	n1.t.SetMembers(cluster, nil, 9)
	n1.says("cannot be used", "level=ERROR")
	if got, members := n1.t.Roster(); string(got) != string(cluster) || len(members) != 3 {
		t.Errorf("the table is %x, %v", got, members)
	}
}

func TestRefusalIsLoggedOnceForEachPeerAndReason(t *testing.T) {
	s := formedSite(t)
	n1 := s.nodes["n1"]
	cluster, _ := n1.t.Roster()
	for range 5 {
		for _, id := range []string{"n2", "n3", "x1", "x2"} {
			_, a := n1.connect(preface{Purpose: forRaft, ID: id, Incarnation: wiped, Cluster: tag(cluster), WantID: "n1", WantIncarnation: tag(n1.dir.Incarnation())})
			if a.Code == accepted || a.ID != "n1" || string(a.Incarnation.bytes()) != string(n1.dir.Incarnation()) {
				t.Errorf("answer %+v", a)
			}
		}
	}
	n1.stop()
	// Ids that nobody knows count as one: they are the stranger's to choose.
	if got := strings.Count(n1.logs.String(), "refused a peer"); got != 3 {
		t.Errorf("%d lines, want 3:\n%s", got, n1.logs)
	}
}

func TestSilentAndSenselessConnectionsAreClosed(t *testing.T) {
	s := newSite(t, "n1")
	n1 := s.nodes["n1"]
	n1.preface = 20 * time.Millisecond
	n1.start()
	for _, sent := range []string{"", "onced\x01", "GET / HTTP/1.1\r\nHost: n1\r\n\r\n", strings.Repeat("\xff", 4096)} {
		c, err := net.Dial("tcp", n1.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, sent)
		wantHungUp(t, c)
		c.Close()
	}
	n1.says("refused a connection that is not a peer's", "from=127.0.0.1", "level=WARN")
}

func TestOtherVersionIsToldSo(t *testing.T) {
	s := newSite(t, "n1")
	n1 := s.nodes["n1"].start()
	c, err := net.Dial("tcp", n1.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := examplePreface().append(nil)[:frameHeader]
	b[len(magic)]++
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if a, err := readAnswer(c); err != nil || a.Code != CodeVersion || a.Reason == "" {
		t.Errorf("answer %+v, %v", a, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := newSite(t, "n1")
	n1 := s.nodes["n1"]
	n1.maxPending, n1.maxConns = 2, 3
	n1.start()
	s.wantFormed("n1")
	n1.t.HandleCommands(echo)
	cluster, members := n1.t.Roster()
	n1.t.SetMembers(cluster, append(members, &fsm.Member{Id: "n2", RaftAddr: "127.0.0.1:1", Incarnation: inc2.bytes()}), 1)
	p := preface{Purpose: forCommands, ID: "n2", Incarnation: inc2, Cluster: tag(cluster), WantID: "n1", WantIncarnation: tag(n1.dir.Incarnation())}
	open := func() net.Conn {
		c, err := net.Dial("tcp", n1.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	silent := []net.Conn{open(), open()}
	wantHungUp(t, open())
	n1.says("too many connections", "level=WARN")
	for _, c := range silent {
		c.Close()
	}
	s.awaitConns(n1, 0)
	for range 3 {
		c, a := n1.connect(p)
		if a.Code != accepted {
			t.Fatalf("answer %+v", a)
		}
		wantEcho(t, c, "n2")
	}
	wantHungUp(t, open())
}

// lateListener accepts one connection while it is closed.
type lateListener struct {
	net.Listener
	late   chan net.Conn
	closed chan struct{}
}

func (l *lateListener) Accept() (net.Conn, error) {
	<-l.closed
	if c, ok := <-l.late; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *lateListener) Close() error {
	near, far := net.Pipe()
	l.late <- near
	close(l.late)
	close(l.closed)
	_, _ = far.Read(make([]byte, 1)) // until it is hung up
	return l.Listener.Close()
}

func TestAConnectionThatComesWhileTheNodeStopsIsNoNews(t *testing.T) {
	s := newSite(t, "n1")
	n1 := s.nodes["n1"]
	l := &lateListener{Listener: n1.port.release(), late: make(chan net.Conn, 1), closed: make(chan struct{})}
	n1.port = nil
	var err error
	if n1.dir, err = OpenDir(n1.path, n1.id); err != nil {
		t.Fatal(err)
	}
	defer n1.dir.Close()
	tr, err := Listen(Config{Dir: n1.dir, NodeID: n1.id, Addr: n1.addr, Peers: n1.list, Listener: l, Log: slog.New(slog.NewTextHandler(n1.logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	if said := n1.logs.String(); said != "" {
		t.Errorf("it said %s", said)
	}
}

func TestPortThatIsTakenIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	_, err = Listen(Config{Dir: mustOpenDir(t, t.TempDir(), "n1"), NodeID: "n1", Addr: addr})
	wantError(t, err, addr, "in use by another process", "--raft-addr")
}

func TestConfigThatCannotWorkIsRefused(t *testing.T) {
	d := mustOpenDir(t, t.TempDir(), "n1")
	for _, tt := range []struct {
		name string
		c    Config
		word string
	}{
		{"no directory", Config{NodeID: "n1", Addr: "a:1"}, "not that of n1"},
		{"another node's directory", Config{Dir: d, NodeID: "n2", Addr: "a:1"}, "not that of n2"},
		{"no address", Config{Dir: d, NodeID: "n1"}, "host:port"},
		{"list and join", Config{Dir: d, NodeID: "n1", Addr: "a:1", Join: "b:1", Peers: []Peer{{"n1", "a:1"}}}, "use one"},
		{"join no address", Config{Dir: d, NodeID: "n1", Addr: "a:1", Join: "b"}, "host:port"},
		{"list without this node", Config{Dir: d, NodeID: "n1", Addr: "a:1", Peers: []Peer{{"n2", "b:1"}}}, "does not name this node"},
		{"list with this node elsewhere", Config{Dir: d, NodeID: "n1", Addr: "a:1", Peers: []Peer{{"n1", "b:1"}}}, "does not name this node"},
		{"list with a node twice", Config{Dir: d, NodeID: "n1", Addr: "a:1", Peers: []Peer{{"n1", "a:1"}, {"n1", "b:1"}}}, "listed twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Listen(tt.c)
			wantError(t, err, tt.word)
		})
	}
}

func TestEachEndChecksThatTheConnectionProvesTheOther(t *testing.T) {
	s := formedSite(t)
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	verify := func(_ net.Conn, id string) error {
		if id == "n3" {
			return nil
		}
		return errors.New("the certificate is for n3")
	}
	n2.verify = verify
	n2.restart()
	_, err := n1.t.Hello(n1.ctx(), n2.addr)
	wantRefusal(t, err, CodeUnproven, "n2")
	wantError(t, err, "the certificate is for n3")
	_, err = n2.t.Hello(n2.ctx(), n1.addr)
	wantError(t, err, "does not prove that it leads to n1")
}

func TestDialEndsWithItsContext(t *testing.T) {
	s := formedSite(t)
	n1 := s.nodes["n1"]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := n1.t.Hello(ctx, l.Addr().String())
		ended <- err
	}()
	c, err := l.Accept() // and never a word
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}

func TestCloseEndsEveryConnectionAndWaits(t *testing.T) {
	s := formedSite(t)
	n1, n2 := s.nodes["n1"], s.nodes["n2"]
	ended := make(chan struct{})
	n2.t.HandleCommands(func(ctx context.Context, c net.Conn, _ string) {
		fmt.Fprintln(c, "here")
		<-ctx.Done()
		close(ended)
	})
	layer := n2.t.RaftLayer()
	raftConn, err := n1.t.RaftLayer().Dial(raft.ServerAddress(n2.addr), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := layer.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := n1.t.DialCommands(n1.ctx(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := n2.t.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	default:
		t.Error("Close did not wait for the handler")
	}
	wantHungUp(t, raftConn)
	wantHungUp(t, taken)
	if _, err := layer.Accept(); err == nil {
		t.Error("raft still accepts")
	}
	if _, err := n2.t.DialCommands(n2.ctx(), "n1"); err == nil {
		t.Error("a closed transport dials")
	}
}

func TestNodeThatMovedSaysSo(t *testing.T) {
	s := formedSite(t)
	n1 := s.nodes["n1"]
	n1.stop()
	old := n1.addr
	n1.port = hold(mustListen(t))
	n1.addr = n1.port.l.Addr().String()
	n1.start()
	n1.says("level=WARN", "listens on another address", "address="+n1.addr, "told="+old)
}

func mustListen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
