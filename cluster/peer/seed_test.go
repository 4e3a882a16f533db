package peer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var (
	seed1 = strings.Repeat("1a", 32)
	seed2 = strings.Repeat("2b", 32)
)

func TestOnlyNodesOfOneSeedFormACluster(t *testing.T) {
	for _, tt := range []struct {
		name          string
		ours, theirs  string
		saysOtherwise string
	}{
		{"neither was restored", "", "", ""},
		{"both were restored from one backup", seed1, seed1, ""},
		{"from two backups", seed1, seed2, "n2 was restored from another backup than this node"},
		{"only the other was", "", seed1, "n2 was restored from a backup and this node was not"},
		{"only this one was", seed1, "", "n2 was not restored from the backup that this node was"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := formingLocal()
			l.list, l.seed = l.list[:2], tt.ours
			m := meeting{peer: l.list[1], hello: hello{NodeID: "n2", Incarnation: inc2, List: l.list, Seed: tt.theirs}}
			for _, formed := range []bool{false, true} {
				if formed {
					m.hello.roster = form(tt.theirs, []member{{"n1", "a:1", inc1}, {"n2", "b:1", inc2}})
				}
				r, missing := conclude(l, []meeting{m})
				if r.formed() != (tt.saysOtherwise == "") {
					t.Fatalf("concluded %v, missing %v", r, missing)
				}
				if r.formed() {
					continue
				}
				var refusal *Refusal
				if err := missing[0].err; !errors.As(err, &refusal) || refusal.Code != CodeSeedDiffers || !strings.Contains(err.Error(), tt.saysOtherwise) {
					t.Errorf("refused because %v", err)
				}
			}
		})
	}
}

func TestClusterIDFollowsFromTheSeed(t *testing.T) {
	members := []member{{"n1", "a:1", inc1}, {"n2", "b:1", inc2}}
	none, one, two := form("", members).Cluster, form(seed1, members).Cluster, form(seed2, members).Cluster
	if none == one || one == two || two == none {
		t.Errorf("the ids are %s, %s and %s", none, one, two)
	}
}

func TestSeededDirectoryIsFilledFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "data")
	err := CreateSeeded(path, "n1", [32]byte{1}, "content", func(dir string) error {
		if _, err := os.Lstat(filepath.Join(path, identityName)); !os.IsNotExist(err) {
			t.Errorf("there is an identity already: %v", err)
		}
		if _, err := OpenDir(path, "n1"); err == nil || !strings.Contains(err.Error(), "is in use by process") {
			t.Errorf("another process may open it: %v", err)
		}
		return os.Mkdir(dir, 0o700)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "content")); err != nil {
		t.Error(err)
	}
	if d := mustOpenDir(t, path, "n1"); !d.Seeded() || d.identity().Seed != "01"+strings.Repeat("00", 31) {
		t.Errorf("it has seed %q", d.identity().Seed)
	}
}

func TestSeededDirectoryThatIsNotFilledIsNotLeft(t *testing.T) {
	full := errors.New("disk full")
	parent := t.TempDir()
	missing, volume := filepath.Join(parent, "missing"), filepath.Join(parent, "volume")
	for _, dir := range []string{"lost+found", ".snapshots"} {
		if err := os.MkdirAll(filepath.Join(volume, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{missing, volume} {
		err := CreateSeeded(path, "n1", [32]byte{1}, "content", func(dir string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "half"), 0o700), full)
		})
		if !errors.Is(err, full) {
			t.Errorf("error %v", err)
		}
	}
	if _, err := os.Lstat(missing); !os.IsNotExist(err) {
		t.Errorf("a directory that was made is left: %v", err)
	}
	if left, err := os.ReadDir(volume); err != nil || len(left) != 2 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

func TestSeedThatIsNoneIsRefused(t *testing.T) {
	for _, seed := range []string{"x", strings.ToUpper(seed1), seed1 + "00", strings.Repeat("zz", 32)} {
		if _, err := parseHello([]byte(`{"node_id":"n1","incarnation":"` + inc1.String() + `","seed":"` + seed + `"}`)); err == nil {
			t.Errorf("a hello with seed %q is accepted", seed)
		}
		if _, err := parseIdentity([]byte(`{"version":1,"node_id":"n1","incarnation":"` + inc1.String() + `","joined":false,"seed":"` + seed + `"}`)); err == nil {
			t.Errorf("an identity with seed %q is accepted", seed)
		}
	}
}
