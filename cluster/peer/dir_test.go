package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onced/onced/fsm"
)

func mustOpenDir(t *testing.T, path, id string) *Dir {
	t.Helper()
	d, err := OpenDir(path, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error is more than one line: %v", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestDirectoryIsMadePrivateWithItsParents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "n1")
	mustOpenDir(t, path, "n1")
	for name, want := range map[string]os.FileMode{"": 0o700, identityName: 0o600, lockName: 0o600} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q has mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

func TestDirectoryThatIsTooOpenIsTightened(t *testing.T) {
	path := t.TempDir()
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	mustOpenDir(t, path, "n1").Close()
	if err := os.Chmod(filepath.Join(path, identityName), 0o644); err != nil {
		t.Fatal(err)
	}
	mustOpenDir(t, path, "n1")
	for name, want := range map[string]os.FileMode{"": 0o700, identityName: 0o600} {
		if info, _ := os.Stat(filepath.Join(path, name)); info.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

func TestIncarnationIsMadeOnceWithTheDirectory(t *testing.T) {
	path := t.TempDir()
	first := mustOpenDir(t, path, "n1")
	if first.Close(); len(first.Incarnation()) != 16 {
		t.Errorf("incarnation is %x", first.Incarnation())
	}
	if again := mustOpenDir(t, path, "n1"); string(again.Incarnation()) != string(first.Incarnation()) {
		t.Error("the directory has another incarnation when opened again")
	}
	if other := mustOpenDir(t, t.TempDir(), "n1"); string(other.Incarnation()) == string(first.Incarnation()) {
		t.Error("two directories have one incarnation")
	}
}

func TestSecondProcessIsToldWhoHasTheDirectory(t *testing.T) {
	path := t.TempDir()
	d := mustOpenDir(t, path, "n1")
	_, err := OpenDir(path, "n1")
	wantError(t, err, path, fmt.Sprintf("in use by process %d", os.Getpid()))
	if err := os.WriteFile(filepath.Join(path, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenDir(path, "n1")
	wantError(t, err, path, "in use by another process")
	d.Close()
	mustOpenDir(t, path, "n1")
}

func TestDirectoryThatCannotBeUsedIsRefusedWithItsReason(t *testing.T) {
	identity := func(content string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(filepath.Join(path, identityName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	made := func(name string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Mkdir(filepath.Join(path, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	const start = `{"version":1,"node_id":"n1","incarnation":"000102030405060708090a0b0c0d0e0f",`
	const cluster = start + `"cluster_id":"ff0102030405060708090a0b0c0d0e0f","roster":[`
	tests := []struct {
		name    string
		prepare func(t *testing.T, path string)
		sub     string
		words   []string
	}{
		{"another node's", identity(strings.Replace(start, "n1", "n9", 1) + `"joined":false}`), "", []string{"node n9, not to n1", "--node-id n9", "--data-dir"}},
		{"empty identity", identity(""), "", []string{"identity.json is damaged"}},
		{"cut short", identity(start), "", []string{"identity.json is damaged"}},
		{"bytes follow", identity(start + `"joined":false}{}`), "", []string{"damaged", "bytes follow"}},
		{"unknown member", identity(start + `"joined":false,"x":1}`), "", []string{"damaged", `"x"`}},
		{"newer version", identity(strings.Replace(start, ":1", ":2", 1) + `"joined":false}`), "", []string{"version 2"}},
		{"no incarnation", identity(`{"version":1,"node_id":"n1","joined":false}`), "", []string{"damaged", "no incarnation"}},
		{"short incarnation", identity(`{"version":1,"node_id":"n1","incarnation":"00","joined":false}`), "", []string{"damaged", "16 bytes"}},
		{"no node id", identity(`{"version":1,"incarnation":"000102030405060708090a0b0c0d0e0f","joined":false}`), "", []string{"damaged", "no node id"}},
		{"joined nothing", identity(start + `"joined":true}`), "", []string{"damaged", "no cluster id"}},
		{"cluster without members", identity(cluster + `],"joined":false}`), "", []string{"damaged", "0 members"}},
		{"roster without this node", identity(cluster + `{"id":"n2","raft_addr":"a:1","incarnation":"000102030405060708090a0b0c0d0e0f"}],"joined":false}`), "", []string{"damaged", "does not name n1"}},
		{"roster with another directory", identity(cluster + `{"id":"n1","raft_addr":"a:1","incarnation":"aa0102030405060708090a0b0c0d0e0f"}],"joined":false}`), "", []string{"damaged", "another data directory"}},
		{"identity is a directory", made(identityName), "", []string{"read identity.json"}},
		{"data without identity", made("raft"), "", []string{"holds raft and no identity.json"}},
		{"a file", identity("x"), identityName, []string{"not a directory", "--data-dir"}},
		{"under a file", identity("x"), identityName + "/sub", []string{"not a directory"}},
		{"lock is a directory", made(lockName), "", []string{"cannot be written", "name another with --data-dir"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := t.TempDir()
			tt.prepare(t, path)
			path = filepath.Join(path, tt.sub)
			before, _ := os.ReadFile(filepath.Join(path, identityName))
			_, err := OpenDir(path, "n1")
			wantError(t, err, append(tt.words, path)...)
			if after, _ := os.ReadFile(filepath.Join(path, identityName)); string(after) != string(before) {
				t.Errorf("the identity became %s", after)
			}
		})
	}
	_, err := OpenDir(t.TempDir(), "no id")
	wantError(t, err, `"no id"`)
}

func TestDirectoryOfAFreshDiskIsEmptyEnough(t *testing.T) {
	path := t.TempDir()
	if err := os.Mkdir(filepath.Join(path, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	// A first start that was cut short.
	if err := os.WriteFile(filepath.Join(path, identityName+".tmp"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpenDir(t, path, "n1")
}

func TestBindStoresARosterOnceAndForGood(t *testing.T) {
	path := t.TempDir()
	d := mustOpenDir(t, path, "n1")
	r := form("", []member{
		{ID: "n2", Addr: "b:1", Incarnation: tag{2}},
		{ID: "n1", Addr: "a:1", Incarnation: d.identity().Incarnation},
	})
	if err := d.Bind(r.Cluster.bytes(), r.fsmMembers()); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = mustOpenDir(t, path, "n1")
	if got := d.identity().roster; got.Cluster != r.Cluster || fmt.Sprint(got.Members) != fmt.Sprint(r.Members) {
		t.Errorf("stored %v, want %v", got, r)
	}
	if string(d.ClusterID()) != string(r.Cluster[:]) || len(d.Members()) != 2 || d.Joined() {
		t.Errorf("the directory says %x, %v, joined %v", d.ClusterID(), d.Members(), d.Joined())
	}
	if err := d.Bind(r.Cluster.bytes(), r.fsmMembers()); err != nil {
		t.Errorf("the same again: %v", err)
	}
	wantError(t, d.Bind(tag{9}.bytes(), r.fsmMembers()), "belongs to cluster "+r.Cluster.String())
}

func TestBindRefusesARosterThatIsNotThisDirectorys(t *testing.T) {
	d := mustOpenDir(t, t.TempDir(), "n1")
	me := &fsm.Member{Id: "n1", RaftAddr: "a:1", Incarnation: d.Incarnation()}
	id := tag{7}.bytes()
	for _, tt := range []struct {
		name    string
		cluster []byte
		members []*fsm.Member
		word    string
	}{
		{"no cluster id", nil, []*fsm.Member{me}, "cluster id"},
		{"zero cluster id", make([]byte, 16), []*fsm.Member{me}, "no cluster"},
		{"no members", id, nil, "0 members"},
		{"not this node", id, []*fsm.Member{{Id: "n2", RaftAddr: "a:1", Incarnation: me.Incarnation}}, "does not name n1"},
		{"another directory", id, []*fsm.Member{{Id: "n1", RaftAddr: "a:1", Incarnation: tag{1}.bytes()}}, "another data directory"},
		{"no incarnation", id, []*fsm.Member{{Id: "n1", RaftAddr: "a:1"}}, "incarnation of member"},
		{"listed twice", id, []*fsm.Member{me, me}, "listed twice"},
		{"one address twice", id, []*fsm.Member{me, {Id: "n2", RaftAddr: "a:1", Incarnation: tag{1}.bytes()}}, "one node listed twice"},
		{"no address", id, []*fsm.Member{{Id: "n1", Incarnation: me.Incarnation}}, "not host:port"},
	} {
		t.Run(tt.name, func(t *testing.T) { wantError(t, d.Bind(tt.cluster, tt.members), tt.word) })
	}
	if d.ClusterID() != nil {
		t.Error("the directory belongs to a cluster")
	}
}

func TestStoredRosterFollowsTheMemberTableForwardOnly(t *testing.T) {
	path := t.TempDir()
	d := mustOpenDir(t, path, "n1")
	me := member{ID: "n1", Addr: "a:1", Incarnation: d.identity().Incarnation}
	other := member{ID: "n2", Addr: "b:1", Incarnation: tag{2}}
	first := form("", []member{me})
	if err := d.bind(first, true); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		r    roster
		want int
	}{
		{"newer", roster{first.Cluster, 5, []member{me, other}}, 2},
		{"older", roster{first.Cluster, 4, []member{me}}, 2},
		{"of another cluster", roster{tag{9}, 9, []member{me}}, 2},
		{"without this directory", roster{first.Cluster, 9, []member{other}}, 2},
		{"newest", roster{first.Cluster, 6, []member{me}}, 1},
	} {
		if err := d.follow(tt.r); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if d = mustOpenDir(t, path, "n1"); len(d.Members()) != tt.want || !d.Joined() {
			t.Errorf("%s: %d members, joined %v, want %d, true", tt.name, len(d.Members()), d.Joined(), tt.want)
		}
	}
}
