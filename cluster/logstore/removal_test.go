package logstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft-wal/fs"
)

func TestOldSegmentsAreRemovedBesideWhatGoesOn(t *testing.T) {
	for name, fails := range map[string]error{"": nil, "one that is gone": os.ErrNotExist, "one that cannot be": os.ErrPermission} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			goOn := make(chan struct{})
			r := newRemoval(fs.New(), hclog.NewNullLogger())
			r.remove = func(path string) error {
				<-goOn
				if fails != nil && filepath.Base(path) == "1" {
					return fails
				}
				return os.Remove(path)
			}
			remove := func(names ...string) {
				for _, name := range names {
					check(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
				}
				for _, name := range names {
					check(t, r.Delete(dir, name))
				}
			}
			remove("0", "1", "2")
			close(goOn)
			r.wg.Wait()
			remove("3", "4") // after the removing had ended
			r.wg.Wait()
			r.close()
			remove("5") // with the next start
			for i := range 6 {
				if left := exists(dir, fmt.Sprint(i)); left != (i == 5 || fails != nil && i == 1) {
					t.Errorf("file %d is there: %t", i, left)
				}
			}
		})
	}
}

func TestTheLogDoesNotWaitForOldSegmentsToGo(t *testing.T) {
	segments := func(dir string) int {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, "*.wal"))
		check(t, err)
		return len(found)
	}
	dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	s := mustOpen(t, dir, "wal", small(t))
	goOn := make(chan struct{})
	r := s.disk.Backend.(walLog).removal
	r.remove = func(path string) error {
		<-goOn
		return os.Remove(path)
	}
	fill(t, s, 1, 200)
	before := segments(dir)
	check(t, s.DeleteRange(1, 150))
	fill(t, s, 201, 210)
	wantEntries(t, s, 151, 210)
	if now := segments(dir); now < before {
		t.Fatalf("of %d segments %d are there, though none can be removed", before, now)
	}

	// A node that ends meanwhile removes them when it starts.
	check(t, os.CopyFS(killed, os.DirFS(dir)))
	close(goOn)
	r.wg.Wait()
	check(t, s.Close())
	again := mustOpen(t, killed, "wal", small(t))
	wantEntries(t, again, 151, 210)
	check(t, again.Close())
	if left, want := segments(killed), segments(dir); left != want || want >= before {
		t.Errorf("of %d segments %d are left, and %d after a start; want as many, and fewer than before", before, want, left)
	}
}
