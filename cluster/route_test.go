package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onced/onced/fsm"
)

// pipeLink returns a link whose far ends come out of the channel.
func pipeLink() (*link, <-chan net.Conn) {
	far := make(chan net.Conn, 8)
	return &link{id: "far", dial: func(context.Context, string) (net.Conn, error) {
		near, other := net.Pipe()
		far <- other
		return near, nil
	}}, far
}

func TestAllWhoWaitForADialShareItsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{dial: func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		defer l.close()
		begun := time.Now()
		errs := make(chan error, 100)
		for range cap(errs) {
			go func() {
				_, _, err := l.call(t.Context(), framePropose, nil)
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; !errors.Is(err, errNotSent) {
				t.Fatalf("call over no connection: %v", err)
			}
		}
		if took := time.Since(begun); took > dialTimeout {
			t.Errorf("the last learned of it after %v", took)
		}
	})
}

func TestWhoGivesUpEndsNoDialThatOthersWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, far := pipeLink()
		defer l.close()
		dial := l.dial
		l.dial = func(ctx context.Context, id string) (net.Conn, error) {
			select {
			case <-time.After(dialTimeout / 2):
				return dial(ctx, id)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		first, giveUp := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- second(l.call(first, framePropose, nil)) }()
		synctest.Wait()
		go func() { ended <- second(l.call(t.Context(), framePropose, nil)) }()
		synctest.Wait()
		giveUp()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the one who gave up: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the other: %v", err)
		}
		defer (<-far).Close()
	})
}

func second(_ <-chan frame, _ func(), err error) error { return err }

func TestAConnectionThatWentDeadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, far := pipeLink()
		defer l.close()
		ctx, cancel := context.WithTimeout(t.Context(), pingTimeout)
		defer cancel()
		if _, err := l.ask(ctx, framePing, []byte("{}")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a ping that nobody answers: %v", err)
		}
		// Nobody asks anything more: the next one must not find it dead.
		time.Sleep(maxSilence + askAfter)
		synctest.Wait()
		if _, _, err := l.call(t.Context(), framePing, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if len(far) != 2 {
			t.Errorf("%d connections were made, want a second one", len(far))
		}
	})
}

func TestASlowCommandIsWaitedForWhileThePeerIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, far := pipeLink()
		defer l.close()
		answer, forget, err := l.call(t.Context(), framePropose, []byte("slow"))
		if err != nil {
			t.Fatal(err)
		}
		defer forget()
		conn := <-far
		w := newFrameWriter(conn)
		defer w.stop()
		go func() {
			r := bufio.NewReader(conn)
			if _, err := readOpening(r); err != nil {
				t.Error(err)
			}
			for {
				f, err := readFrame(r)
				if err != nil {
					return
				}
				if f.kind == framePing {
					sendJSON(w, framePong, f.id, pong{})
					continue
				}
				time.AfterFunc(10*maxSilence, func() { w.reply(f.id, result{verdict: notApplied}) })
			}
		}()
		if f, ok := <-answer; !ok || f.kind != frameResult {
			t.Errorf("answer %v, %v: the connection was given up", f.kind, ok)
		}
		time.Sleep(10 * maxSilence)
		if l.conn == nil {
			t.Error("a connection over which nothing is owed was given up")
		}
	})
}

func TestACommandDoesNotWaitForWhoLedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(Config{NodeID: "self"}.withDefaults())
		defer n.cancel()
		l, _ := pipeLink()
		defer l.close()
		n.links.byID["old"] = l
		n.leadership.set("old")
		leader, changed := n.leadership.leader()
		n.leadership.set("new") // before the command is on its way
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if r := n.send(ctx, leader, changed, []byte("x")); r.verdict != unknown || ctx.Err() != nil {
			t.Errorf("verdict %v after %v", r.verdict, ctx.Err())
		}
	})
}

// scriptedLeader returns a node whose leader gives these answers, one to each
// command; sent returns the commands once the node is done.
func scriptedLeader(t *testing.T, answers ...result) (n *Node, sent func() [][]byte) {
	n = newNode(Config{NodeID: "self"}.withDefaults())
	n.met = newMetrics(n)
	n.term = func() uint64 { return 7 }
	n.clock.hear(time.Now().UnixMilli())
	l, far := pipeLink()
	n.links.byID["leader"] = l
	n.leadership.set("leader")
	var commands [][]byte
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn := <-far
		w := newFrameWriter(conn)
		defer w.stop()
		r := bufio.NewReader(conn)
		if _, err := readOpening(r); err != nil {
			t.Error(err)
		}
		for _, a := range answers {
			f, err := readFrame(r)
			if err != nil {
				t.Error(err)
				return
			}
			commands = append(commands, f.payload)
			w.reply(f.id, a)
		}
		_, _ = readFrame(r) // until it hangs up
	}()
	return n, func() [][]byte {
		n.cancel()
		l.close()
		<-ended
		return commands
	}
}

func TestAResendIsTheSameCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answers []result
		for _, v := range []verdict{unknown, notApplied, notLeader, unknown, applied} {
			answers = append(answers, result{verdict: v, outcome: &fsm.Outcome{Code: fsm.Code_OK}})
		}
		n, sent := scriptedLeader(t, answers...)
		o, err := n.Propose(t.Context(), &fsm.Command{Kind: fsm.Kind_RENEW, Namespace: "default", Key: "k", Fence: 1})
		commands := sent()
		if err != nil || o.Code != fsm.Code_OK {
			t.Fatalf("%v %v", o.GetCode(), err)
		}
		for _, c := range commands {
			if !bytes.Equal(c, commands[0]) {
				t.Errorf("a resend is %x, the command was %x", c, commands[0])
			}
		}
		if len(commands) != len(answers) {
			t.Errorf("it was sent %d times, want %d", len(commands), len(answers))
		}
	})
}

// A record may end between two copies of the command that settled it. Only where no
// copy before may have been applied, its sender is told that nothing was changed.
func TestAStaleFenceIsNoAnswerToACompletionThatMayHaveBeenAppliedBefore(t *testing.T) {
	type sent struct {
		kind   fsm.Kind
		retry  bool
		before []verdict
		code   fsm.Code
		told   bool
	}
	for _, c := range []sent{
		{fsm.Kind_COMPLETE, false, []verdict{unknown}, fsm.Code_STALE_FENCE, false},
		{fsm.Kind_COMPLETE, false, []verdict{unknown, notLeader, notApplied}, fsm.Code_STALE_FENCE, false},
		{fsm.Kind_COMPLETE, false, []verdict{unknown}, fsm.Code_OK, true},
		{fsm.Kind_COMPLETE, false, []verdict{notApplied}, fsm.Code_STALE_FENCE, true},
		{fsm.Kind_FAIL, false, []verdict{unknown}, fsm.Code_STALE_FENCE, false},
		{fsm.Kind_FAIL, false, []verdict{notLeader}, fsm.Code_STALE_FENCE, true},
		{fsm.Kind_RESOLVE, false, []verdict{unknown}, fsm.Code_STALE_FENCE, false},
		{fsm.Kind_RESOLVE, false, []verdict{unknown}, fsm.Code_NOT_FOUND, false},
		{fsm.Kind_RESOLVE, false, nil, fsm.Code_NOT_FOUND, true},
		// Removals are remembered, and a lease that was renewed is of no more use.
		{fsm.Kind_RESOLVE, true, []verdict{unknown}, fsm.Code_NOT_FOUND, true},
		{fsm.Kind_FORGET, false, []verdict{unknown}, fsm.Code_NOT_FOUND, true},
		{fsm.Kind_RENEW, false, []verdict{unknown}, fsm.Code_STALE_FENCE, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var answers []result
			for _, v := range c.before {
				answers = append(answers, result{verdict: v})
			}
			n, commands := scriptedLeader(t, append(answers, result{verdict: applied, outcome: &fsm.Outcome{Code: c.code}})...)
			o, err := n.Propose(t.Context(), &fsm.Command{Kind: c.kind, Namespace: "default", Key: "k", Fence: 1, Retry: c.retry})
			if n := len(commands()); n != len(c.before)+1 {
				t.Errorf("%+v: sent %d times", c, n)
			}
			var u *unavailable
			if told := o != nil && o.Code == c.code; told != c.told || !told && !(errors.As(err, &u) && u.maybe) {
				t.Errorf("%+v: %v, %v", c, o, err)
			}
		})
	}
}

func TestAnAnswerThatDoesNotFitIsToldToBeAskedForAgain(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	w := newFrameWriter(near)
	defer w.stop()
	const size = 16 << 20
	large := func(b []byte) ([]byte, error) { return append(b, make([]byte, size)...), nil }
	queued := 0
	for ; w.send(frameResult, 1, large) == nil; queued++ {
		if queued > 2*maxQueued/size {
			t.Fatal("what a peer does not read piles up without bound")
		}
	}
	w.reply(2, result{verdict: notApplied})
	r := bufio.NewReader(far)
	for range queued {
		if f, err := readFrame(r); err != nil || f.id != 1 {
			t.Fatalf("frame %d: %v", f.id, err)
		}
	}
	f, err := readFrame(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeResult(f.payload); err != nil || f.id != 2 || got.verdict != unknown {
		t.Errorf("answer to %d is %+v (%v), want unknown to 2", f.id, got, err)
	}
}

func TestReadinessIsJudgedByTimeBehind(t *testing.T) {
	type word struct {
		after          time.Duration // since the one before
		leader, reader uint64        // applied, then
	}
	steady := func(n int, every time.Duration, lag uint64) (words []word) {
		for i := range uint64(n) {
			words = append(words, word{every, 1000 + 100*i, 1000 + 100*i - lag})
		}
		return words
	}
	for _, tt := range []struct {
		name  string
		words []word
		then  time.Duration // until it is asked
		want  error
	}{
		{"nothing heard", nil, 0, errNotCaughtUp},
		{"at the leader's index", []word{{0, 7, 7}}, 0, nil},
		{"a log that is empty", []word{{0, 0, 0}}, 0, errNotCaughtUp},
		{"far behind", []word{{0, 1000, 7}, {100 * time.Millisecond, 1100, 20}}, 0, errNotCaughtUp},
		{"a little behind a leader that moves on", steady(1000, 100*time.Millisecond, 350), 0, nil},
		{"stuck since a second", append(steady(10, 100*time.Millisecond, 0), word{100 * time.Millisecond, 9000, 1900}, word{time.Second, 9100, 1900}), 0, nil},
		{"stuck for long", append(steady(10, 100*time.Millisecond, 0), word{100 * time.Millisecond, 9000, 1900}, word{9 * time.Second, 9100, 1900}), 2 * time.Second, errBehind},
		{"an election", steady(10, 100*time.Millisecond, 0), 5 * time.Second, nil},
		{"cut off, or removed", steady(10, 100*time.Millisecond, 0), maxLag + time.Second, errUnled},
		{"back, and far behind", append(steady(10, 100*time.Millisecond, 0), word{time.Minute, 90000, 1900}), 0, errNotCaughtUp},
		{"back, and caught up", append(steady(10, 100*time.Millisecond, 0), word{time.Minute, 90000, 1900}, word{time.Second, 90001, 90001}), 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now, applied := time.Now(), uint64(0)
			r := readiness{now: func() time.Time { return now }, applied: func() uint64 { return applied }}
			for _, w := range tt.words {
				now, applied = now.Add(w.after), w.reader
				r.leaderApplied(w.leader)
			}
			now = now.Add(tt.then)
			if err := r.err(); !errors.Is(err, tt.want) {
				t.Errorf("ready: %v, want %v", err, tt.want)
			}
			r.drain()
			if err := r.err(); !errors.Is(err, errDraining) {
				t.Errorf("ready while it drains: %v", err)
			}
		})
	}
}

func TestACommandThatNobodyUnderstandsIsRefusedAndStopsNobody(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader, follower := c.leader(), c.follower()
	term := c.nodes[leader].term() // so that nothing else is wrong with them
	known, err := (&fsm.Command{Kind: fsm.Kind_READ, Term: term}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	ofLevel, err := (&fsm.Command{Kind: fsm.Kind_FEATURE_LEVEL, Level: fsm.FeatureLevel + 1, Term: term}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string][]byte{
		"nothing":                {},
		"no encoding":            {0xff, 0xff, 0xff},
		"a kind of later":        append([]byte{8, 99}, known[2:]...),
		"a field of later":       append(known, 0xf8, 0x3f, 1),
		"a level of later":       ofLevel,
		"one that is cut in two": known[:1],
	} {
		f, err := c.nodes[follower].links.to(c.peers[leader].ID).ask(t.Context(), framePropose, command)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r, err := decodeResult(f.payload); err != nil || r.verdict != notApplied {
			t.Errorf("%s: verdict %v (%v), want not applied", name, r.verdict, err)
		}
	}
	c.begin(follower, claimOf("after", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	for _, n := range c.nodes {
		select {
		case err := <-n.Fatal():
			t.Errorf("%s stopped: %v", n.cfg.NodeID, err)
		default:
		}
	}
}

func TestAClaimThatLapsedUnusedIsReleased(t *testing.T) {
	c := startCluster(t, 3, nil)
	for _, attempt := range []string{"", "A"} {
		claim := claimOf("k", attempt, 100*time.Millisecond, fsm.OnLapse_BLOCK)
		c.propose(0, claim, fsm.Code_GRANTED)
		eventually(t, "the lease to lapse", func() bool { return c.read(0, "k").State == fsm.State_UNKNOWN })
		c.nodes[0].abandon(claim, &unavailable{maybe: true})
		eventually(t, "the key to be free", func() bool { return c.read(1, "k") == nil })
	}
}

// TestAResendIsStampedWithTheTermOfTheDay: in the term of the leader before it would
// change nothing.
func TestAResendIsStampedWithTheTermOfTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, sent := scriptedLeader(t, result{verdict: unknown}, result{verdict: unknown}, result{verdict: applied, outcome: &fsm.Outcome{Code: fsm.Code_OK}})
		terms := []uint64{7, 8, 8, 6}
		n.term = func() uint64 {
			now := terms[0]
			terms = terms[min(1, len(terms)-1):]
			return now
		}
		if _, err := n.Propose(t.Context(), &fsm.Command{Kind: fsm.Kind_READ}); err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, b := range sent() {
			term, err := fsm.CheckCommand(b)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, term)
		}
		if want := []uint64{7, 8, 8}; !slices.Equal(got, want) {
			t.Errorf("it was sent in terms %v, want %v", got, want)
		}
	})
}

// TestWhatWasGivenUpIsReleasedIfNobodyHasIt: the read may be older than the grant to
// another request of the attempt, so the release is judged again where it is applied.
func TestWhatWasGivenUpIsReleasedIfNobodyHasIt(t *testing.T) {
	own := []byte("sixteen bytes id")
	for _, c := range []struct {
		name    string
		outcome *fsm.Outcome // of the read
		release bool
	}{
		{"granted", &fsm.Outcome{Code: fsm.Code_OK, Record: &fsm.Record{State: fsm.State_CLAIMED, RequestId: own, Fence: 3}}, true},
		{"lapsed", &fsm.Outcome{Code: fsm.Code_OK, Record: &fsm.Record{State: fsm.State_UNKNOWN, RequestId: own, Fence: 3}}, true},
		{"granted to the attempt again", &fsm.Outcome{Code: fsm.Code_OK, Record: &fsm.Record{State: fsm.State_CLAIMED, RequestId: own, Answered: true}}, false},
		{"failed", &fsm.Outcome{Code: fsm.Code_OK, Record: &fsm.Record{State: fsm.State_UNKNOWN, RequestId: own, Failed: true}}, false},
		{"completed", &fsm.Outcome{Code: fsm.Code_OK, Record: &fsm.Record{State: fsm.State_COMPLETED, RequestId: own}}, false},
		{"another's", &fsm.Outcome{Code: fsm.Code_OK, Record: &fsm.Record{State: fsm.State_CLAIMED, RequestId: []byte("another's")}}, false},
		{"absent", &fsm.Outcome{Code: fsm.Code_NOT_FOUND}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			answers := []result{{verdict: applied, outcome: c.outcome}}
			if c.release {
				answers = append(answers, result{verdict: applied, outcome: &fsm.Outcome{Code: fsm.Code_OK}})
			}
			n, sent := scriptedLeader(t, answers...)
			ended := n.releaseUnused(own, "default", "k")
			commands := sent()
			if ended == c.release || len(commands) != len(answers) {
				t.Fatalf("%s: %d commands were sent, and it ended: %v", c.name, len(commands), ended)
			}
			if !c.release {
				return
			}
			release := new(fsm.Command)
			if err := release.UnmarshalVT(commands[1]); err != nil || release.Kind != fsm.Kind_RELEASE || release.Fence != 3 || !release.Unanswered {
				t.Errorf("%s: what follows the read is %v (%v)", c.name, release, err)
			}
		})
	}
}

func TestAGrantThatTheSameAttemptHoldsIsNotReleasedUnderIt(t *testing.T) {
	c := startCluster(t, 3, nil)
	unanswered := claimOf("k", "A", time.Minute, fsm.OnLapse_RETRY)
	c.propose(0, unanswered, fsm.Code_GRANTED)
	held := c.begin(1, claimOf("k", "A", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	c.nodes[0].abandon(unanswered, &unavailable{maybe: true})
	for range 20 {
		c.begin(2, claimOf("k", "B", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)
	}
	c.complete(1, "k", held.Record.Fence, "by A")
}

func TestLargeResponsesAreForwardedManyAtOnce(t *testing.T) {
	t.Parallel()
	// How long a busy machine takes for all of it is not what is tested.
	c := startCluster(t, 3, func(cfg *Config) { cfg.RequestTimeout = 5 * time.Minute })
	follower := c.follower()
	body := make([]byte, 1<<20)
	rand.Read(body)
	granted := c.begin(follower, claimOf("large", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	c.complete(follower, "large", granted.Record.Fence, string(body))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			o, err := c.nodes[follower].Propose(t.Context(), &fsm.Command{Kind: fsm.Kind_READ, Namespace: "default", Key: "large"})
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := o.Record.Response.Plain(); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes came back (%v)", len(got), err)
			}
		})
	}
	wg.Wait()
}
