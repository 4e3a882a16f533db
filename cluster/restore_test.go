package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onced/onced/fsm"
)

// createOf creates a resource whose e-mail address is unique.
func createOf(key, id, email string) *fsm.Command {
	value := sha256.Sum256([]byte(email))
	return &fsm.Command{
		Kind: fsm.Kind_CREATE, Namespace: "default", Key: key, Surface: fsm.Surface_SURFACE_CREATE, ResourceId: id,
		Ttl: (24 * time.Hour).Milliseconds(), Uniques: []*fsm.Unique{{Field: "email", Value: value[:]}},
		Response: fsm.NewResponse(201, nil, bytes.Repeat([]byte("created "+key), 200)),
	}
}

// backUp writes a backup of node i to a new file.
func (c *trio) backUp(i int) (file string) {
	c.t.Helper()
	var b bytes.Buffer
	if err := c.nodes[i].Backup(c.t.Context(), &b); err != nil {
		c.t.Fatal(err)
	}
	file = filepath.Join(c.t.TempDir(), "backup")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// restore restores file for the node at place i, which was never started.
func (c *trio) restore(i int, file string) {
	c.t.Helper()
	if _, err := Restore(c.dirs[i], c.peers[i].ID, file); err != nil {
		c.t.Fatal(err)
	}
}

// join starts a node that is no part of c's list, and has it added.
func (c *trio) join(id string) *Node {
	c.t.Helper()
	cfg := c.config(0)
	cfg.NodeID, cfg.DataDir, cfg.RaftAddr, cfg.Peers, cfg.Join = id, c.t.TempDir(), freeAddr(c.t), nil, c.peers[0].Addr
	n, err := Open(c.t.Context(), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { n.Close() })
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	eventually(c.t, id+" to be added", func() bool { // an election in between says nothing
		err := c.nodes[0].AddNode(ctx, id, cfg.RaftAddr, true)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			c.t.Fatal(err)
		}
		return err == nil
	})
	eventually(c.t, id+" to be ready", func() bool { return n.Ready() == nil })
	return n
}

// past is a cluster with a history, and what is to be seen of it ever after.
type past struct {
	bodies map[string][]byte // by key
	held   *fsm.Record       // a claim that stands
	file   string            // its backup
}

func newPast(t *testing.T) past {
	c := startCluster(t, 3, nil)
	p := past{bodies: map[string][]byte{}}
	for k := range 20 {
		made, done := fmt.Sprintf("made-%d", k), fmt.Sprintf("done-%d", k)
		o := c.begin(k%3, createOf(made, fmt.Sprintf("id-%d", k), made+"@example.com"), 0, fsm.Code_CREATED)
		p.bodies[made] = plain(t, o.Record)
		granted := c.begin(k%3, claimOf(done, "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
		p.bodies[done] = plain(t, c.complete(k%3, done, granted.Record.Fence, "response of "+done).Record)
	}
	p.held = c.begin(0, claimOf("held", "A", time.Hour, fsm.OnLapse_BLOCK), 0, fsm.Code_GRANTED).Record
	p.file = c.backUp(c.follower())
	for i := range c.nodes {
		c.stop(i)
	}
	return p
}

func plain(t *testing.T, rec *fsm.Record) []byte {
	t.Helper()
	body, err := rec.Response.Plain()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// stands checks that node n goes on from the past.
func (p past) stands(t *testing.T, n *Node) {
	t.Helper()
	begin := func(c *fsm.Command, want fsm.Code) *fsm.Outcome {
		t.Helper()
		o, err := n.Begin(t.Context(), c, 0)
		if err != nil || o.Code != want {
			t.Fatalf("%v %s: %v %v, want %v", c.Kind, c.Key, o.GetCode(), err, want)
		}
		return o
	}
	for key, body := range p.bodies {
		c := claimOf(key, "", time.Minute, fsm.OnLapse_RETRY)
		if strings.HasPrefix(key, "made") {
			c = createOf(key, "another", "another@example.com")
		}
		if got := plain(t, begin(c, fsm.Code_REPLAY).Record); !bytes.Equal(got, body) {
			t.Errorf("%s is replayed with another body", key)
		}
	}
	key := fmt.Sprintf("late-%s-%d", n.cfg.NodeID, time.Now().UnixNano())
	if o := begin(createOf(key, key, "made-7@example.com"), fsm.Code_CREATED); o.Record.Response.Status != 409 {
		t.Errorf("a second resource of a unique field: status %d", o.Record.Response.Status)
	}
	begin(claimOf("held", "B", time.Minute, fsm.OnLapse_RETRY), fsm.Code_IN_FLIGHT)
	if o := begin(claimOf("new-"+key, "", time.Minute, fsm.OnLapse_RETRY), fsm.Code_GRANTED); o.Record.Fence <= p.held.Fence {
		t.Errorf("fence %d was granted, %d before the backup", o.Record.Fence, p.held.Fence)
	}
}

func TestARestoredClusterGoesOnFromTheBackup(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	for _, store := range []string{"wal", "bolt"} {
		t.Run(store, func(t *testing.T) {
			c := newCluster(t, 3, func(cfg *Config) { cfg.LogStore = store })
			for i := range c.nodes {
				c.restore(i, p.file)
				c.start(i)
			}
			c.awaitReady()
			for i := range c.nodes {
				p.stands(t, c.nodes[i])
			}
			for i := range c.nodes {
				c.stop(i)
			}
			for i := range c.nodes {
				c.start(i)
			}
			c.awaitReady()
			p.stands(t, c.nodes[1])
			c.complete(2, "held", p.held.Fence, "at last")
		})
	}
}

// A log of a restored cluster does not tell of the content. Whoever were
// brought up from it alone would miss all that was restored.
func TestANodeAddedToARestoredClusterHasTheContentToo(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	for name, prepare := range map[string]func(*trio){
		"at once":         func(*trio) {},
		"after a restart": func(c *trio) { c.restart(c.leader()); c.awaitReady() },
		"after a snapshot": func(c *trio) {
			for _, n := range c.nodes {
				if err := n.raft.Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, nil)
			for i := range c.nodes {
				c.restore(i, p.file)
				c.start(i)
			}
			c.awaitReady()
			prepare(c)
			if first, err := c.nodes[0].logs.FirstIndex(); err != nil || first != 2 {
				t.Errorf("the log begins with entry %d (%v), want 2", first, err)
			}
			added := c.join("n4")
			p.stands(t, added)
			if added.state.Installs() == 0 {
				t.Error("the new node got no snapshot")
			}
			eventually(t, "the new node to hold what the others do", func() bool {
				want, err1 := c.nodes[0].Hash()
				got, err2 := added.Hash()
				if err1 != nil || err2 != nil {
					t.Fatal(err1, err2)
				}
				return got == want
			})
		})
	}
}

func TestASingleNodeIsRestored(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	c := newCluster(t, 1, nil)
	c.restore(0, p.file)
	c.start(0)
	c.awaitReady()
	p.stands(t, c.nodes[0])
	// What it holds can be backed up in its turn.
	p.file = c.backUp(0)
	again := newCluster(t, 1, nil)
	again.restore(0, p.file)
	again.start(0)
	again.awaitReady()
	p.stands(t, again.nodes[0])
}

func TestNodesFormAClusterOfOneContentOnly(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	for name, other := range map[string]struct {
		restore func(c *trio)
		why     string
	}{
		"one is empty":          {func(*trio) {}, "n3 was not restored from the backup that this node was"},
		"one has another state": {func(c *trio) { c.restore(2, oneNodeBackup(t)) }, "n3 was restored from another backup than this node"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, nil)
			c.restore(0, p.file)
			c.restore(1, p.file)
			other.restore(c)
			for i := range c.nodes {
				c.start(i)
			}
			for i, why := range map[int]string{0: other.why, 1: other.why, 2: "run `onced restore` with the same file"} {
				eventually(t, "a refusal", func() bool {
					err := c.nodes[i].Ready()
					return err != nil && strings.Contains(err.Error(), why)
				})
			}
			c.stop(2)
			c.dirs[2] = filepath.Join(t.TempDir(), "new")
			c.restore(2, p.file)
			c.start(2)
			c.awaitReady()
			p.stands(t, c.nodes[2])
		})
	}
}

func oneNodeBackup(t *testing.T) string {
	c := startCluster(t, 1, nil)
	return c.backUp(0)
}

func TestARestoredDirectoryJoinsNoCluster(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.restore(0, oneNodeBackup(t))
	cfg := c.config(0)
	cfg.Join = freeAddr(t)
	n, err := Open(t.Context(), cfg)
	if err == nil {
		n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "join from an empty directory") {
		t.Errorf("error %v", err)
	}
}

func TestADamagedBackupIsRefusedAndLeavesNothing(t *testing.T) {
	whole, err := os.ReadFile(oneNodeBackup(t))
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	const sum = "its checksum is wrong"
	for name, c := range map[string]struct {
		data []byte
		why  string
	}{
		"empty":                      {nil, "not a backup"},
		"cut in its magic":           {whole[:9], "not a backup"},
		"cut behind its magic":       {whole[:len(backupMagic)], sum},
		"cut in its head":            {whole[:40], sum},
		"cut in the middle":          {whole[:len(whole)/2], sum},
		"without its checksum":       {whole[:len(whole)-32], sum},
		"cut by a byte":              {whole[:len(whole)-1], sum},
		"a byte longer":              {append(bytes.Clone(whole), 0), sum},
		"another magic":              {flipped(3), "not a backup"},
		"another length of the head": {flipped(len(backupMagic) + 3), sum},
		"another head":               {flipped(len(backupMagic) + 8), sum},
		"another state":              {flipped(len(whole) / 2), sum},
		"another checksum":           {flipped(len(whole) - 1), sum},
		"a state that is none":       {sealed([]byte("onced state 1\n\x00\x00\x00\x00")), "cut short"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "backup")
			if err := os.WriteFile(file, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			missing, empty := filepath.Join(t.TempDir(), "data"), t.TempDir()
			for _, dir := range []string{missing, empty} {
				if _, err := Restore(dir, "n1", file); err == nil || !strings.Contains(err.Error(), c.why) {
					t.Errorf("error %v, want %q in it", err, c.why)
				}
			}
			if _, err := os.Lstat(missing); !os.IsNotExist(err) {
				t.Errorf("the data directory was left: %v", err)
			}
			if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
				t.Errorf("in the data directory %v was left (%v)", left, err)
			}
		})
	}
}

// sealed is a backup of state whose head and checksum are right.
func sealed(state []byte) []byte {
	head := fmt.Sprintf(`{"size":%d}`, len(state))
	b := append([]byte(backupMagic), 0, 0, 0, byte(len(head)))
	b = append(append(b, head...), state...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func TestAUsedDirectoryIsNotRestoredInto(t *testing.T) {
	c := startCluster(t, 1, nil)
	c.begin(0, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	file := c.backUp(0)
	refused := func(dir string) {
		t.Helper()
		if _, err := Restore(dir, "n1", file); err == nil || !strings.Contains(err.Error(), "is not empty") {
			t.Errorf("error %v", err)
		}
	}
	refused(c.dirs[0]) // while it runs
	c.stop(0)
	refused(c.dirs[0])
	c.start(0)
	c.awaitReady()
	c.begin(0, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_IN_FLIGHT)

	restored := t.TempDir()
	if _, err := Restore(restored, "n1", file); err != nil {
		t.Fatal(err)
	}
	refused(restored)
	notes := t.TempDir()
	if err := os.WriteFile(filepath.Join(notes, "notes.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(notes)
	if _, err := Restore(t.TempDir(), "n/1", file); err == nil || !strings.Contains(err.Error(), `node id "n/1"`) {
		t.Errorf("a wrong node id: %v", err)
	}
	if _, err := Restore(t.TempDir(), "n1", t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a directory for a file: %v", err)
	}
}

func TestARestoreThatWasCutOffIsNoNodeAndCanBeDoneAgain(t *testing.T) {
	file := oneNodeBackup(t)
	c := newCluster(t, 1, nil)
	left := filepath.Join(c.dirs[0], ".restoring", "store-000001")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "000001.sst"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.restore(0, file)
	c.start(0)
	c.awaitReady()
	c.stop(0)

	// Cut off later: the content is there, the identity is not.
	late := newCluster(t, 1, nil)
	late.restore(0, file)
	if err := os.Remove(filepath.Join(late.dirs[0], "identity.json")); err != nil {
		t.Fatal(err)
	}
	if n, err := Open(t.Context(), late.config(0)); err == nil {
		n.Close()
		t.Error("a directory without identity was opened")
	}

	// The content alone was lost afterwards.
	lost := newCluster(t, 1, nil)
	lost.restore(0, file)
	if err := os.RemoveAll(filepath.Join(lost.dirs[0], "state")); err != nil {
		t.Fatal(err)
	}
	lost.start(0)
	select {
	case err := <-lost.nodes[0].Fatal():
		if !strings.Contains(err.Error(), "content that was restored is missing") {
			t.Errorf("fatal: %v", err)
		}
	case <-time.After(patience):
		t.Error("it runs without its content")
	}
}

// After a kill the state of a restored node is that of the backup, as if
// nothing had come since. Without the log it would acknowledge anew.
func TestARestoredNodeThatLostItsLogIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.restore(0, oneNodeBackup(t))
	c.start(0)
	c.awaitReady()
	state, killed := filepath.Join(c.dirs[0], "state"), filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(killed, os.DirFS(state)); err != nil { // nothing was written out since
		t.Fatal(err)
	}
	c.begin(0, claimOf("k", "", time.Minute, fsm.OnLapse_RETRY), 0, fsm.Code_GRANTED)
	c.stop(0)
	for _, lost := range []string{state, filepath.Join(c.dirs[0], "raft")} {
		if err := os.RemoveAll(lost); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(killed, state); err != nil {
		t.Fatal(err)
	}
	n, err := Open(t.Context(), c.config(0))
	if err == nil {
		defer n.Close()
		eventually(t, "its refusal or its readiness", func() bool {
			select {
			case err = <-n.Fatal():
				return true
			default:
				return n.Ready() == nil
			}
		})
	}
	if err == nil || !strings.Contains(err.Error(), "join") {
		t.Errorf("it says %v, not what to do", err)
	}
}
