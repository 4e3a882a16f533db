//go:build linux

package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// Run as a child with this variable, the test makes a disk, freezes it, and waits.
const asChild = "ONCED_TEST_DISK_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		leaveADisk()
	}
	goleak.VerifyTestMain(m)
}

type lab struct {
	*testing.T
	*Disk
}

func newLab(t *testing.T) *lab {
	t.Helper()
	d, err := New(t.Context(), 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t, d}
	t.Cleanup(func() {
		l.must(d.Remove(context.WithoutCancel(t.Context())))
		if _, err := os.Stat(d.place); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", d.place, err)
		}
	})
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// write writes and, where it is told to, syncs.
func (l *lab) write(name, text string, sync bool) error {
	f, err := os.OpenFile(filepath.Join(l.Dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if sync {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}

func (l *lab) holds(name, text string) {
	l.Helper()
	if got, err := os.ReadFile(filepath.Join(l.Dir, name)); err != nil || string(got) != text {
		l.Errorf("%s holds %q, %v; want %q", name, got, err, text)
	}
}

func TestAPowerCutLosesWhatWasNotSyncedAndNothingElse(t *testing.T) {
	l := newLab(t)
	l.must(l.write("synced", "old", true))
	l.must(l.write("overwritten", "old", true))
	l.must(l.write("overwritten", "new", false))
	l.must(l.write("fresh", "new", false))
	l.must(l.CutPower())
	if err := l.write("synced", "later", true); err == nil {
		t.Error("a disk without power can be written")
	}
	lost, err := l.Restore(t.Context())
	l.must(err)
	if lost != unsyncedSize {
		t.Errorf("%d bytes were lost of %d", lost, unsyncedSize)
	}
	l.holds("synced", "old")
	l.holds("overwritten", "old")
	if got, err := os.ReadFile(filepath.Join(l.Dir, "fresh")); len(got) > 0 {
		t.Errorf("fresh holds %q, %v", got, err)
	}
	l.must(l.write("synced", "new", true))
}

func TestAFrozenDiskHoldsWritesUntilItIsThawed(t *testing.T) {
	l := newLab(t)
	stall, err := l.Freeze(time.Minute)
	l.must(err)
	ended := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() {
		close(ended)
		_, _ = stall.End()
	})
	l.must(l.write("a", "text", true))
	select {
	case <-ended:
	default:
		t.Error("it was written while the disk hung")
	}
	held, err := stall.End()
	l.must(err)
	if held < 300*time.Millisecond {
		t.Errorf("the disk hung for %v", held)
	}
	l.holds("a", "text")
}

func TestAFrozenDiskThawsByItselfAtItsLimit(t *testing.T) {
	l := newLab(t)
	stall, err := l.Freeze(50 * time.Millisecond)
	l.must(err)
	l.must(l.write("a", "text", true))
	held, err := stall.End()
	l.must(err)
	if held < 50*time.Millisecond {
		t.Errorf("it hung for %v", held)
	}
}

func TestASlowDiskHangsAgainAndAgainAndThenNoMore(t *testing.T) {
	l := newLab(t)
	// Until it has hung more than once: a machine that stands still itself sees less of it.
	for lasting := 300 * time.Millisecond; ; lasting *= 2 {
		stall, err := l.Slow(30*time.Millisecond, 5*time.Millisecond, time.Minute)
		l.must(err)
		begun := time.Now()
		for i := 0; time.Since(begun) < lasting; i++ {
			l.must(l.write(fmt.Sprint(i), "text", true))
		}
		held, err := stall.End()
		l.must(err)
		if held >= 60*time.Millisecond {
			break
		}
		if lasting > 20*time.Second {
			t.Fatalf("of %v it hung for %v", lasting, held)
		}
	}
	l.must(l.write("after", "text", true))
}

func TestAFullDiskTakesNothingUntilItIsFreed(t *testing.T) {
	l := newLab(t)
	taken, err := l.Fill()
	l.must(err)
	if taken < 16<<20 {
		t.Errorf("%d bytes were free of 32 MiB", taken)
	}
	if err := l.write("a", strings.Repeat("x", 1<<16), true); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk says %v", err)
	}
	l.must(l.Free())
	l.must(l.write("a", "text", true))
	l.must(l.Free())
}

func TestFilesRotAsChanceSays(t *testing.T) {
	fresh := func() string {
		dir := t.TempDir()
		for _, name := range []string{"a.log", "b.log", "c.txt", "empty.log", "empty-zeros.log"} {
			data := append([]byte(strings.Repeat(name, 10)), make([]byte, 1000)...)
			switch name {
			case "empty.log":
				data = nil
			case "empty-zeros.log": // a file of the log that is only made ready
				data = make([]byte, 1000)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	damage := func(seed uint64) (names string) {
		dir, chance := fresh(), rand.New(rand.NewPCG(seed, 0))
		path, err := Pick(chance, dir, "*.log", "*.none")
		if err != nil {
			t.Fatal(err)
		}
		at, err := Flip(chance, path)
		if err != nil || at >= 50 {
			t.Fatalf("byte %d flipped, %v", at, err)
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data[:at])+string(data[at+1:50]) != strings.Repeat(filepath.Base(path), 10)[:at]+strings.Repeat(filepath.Base(path), 10)[at+1:] {
			t.Errorf("%s is %q, %v", path, data[:50], err)
		}
		lost, err := Truncate(chance, path)
		if info, _ := os.Stat(path); err != nil || lost < 1 || info.Size() != 50-lost {
			t.Errorf("%d bytes lost, %v", lost, err)
		}
		if _, err := Pick(chance, dir, "empty*"); err == nil {
			t.Error("a file with nothing in it is picked")
		}
		return fmt.Sprint(filepath.Base(path), at, lost)
	}
	seen := map[string]bool{}
	for seed := range uint64(20) {
		first := damage(seed)
		if second := damage(seed); first != second {
			t.Errorf("with one seed %s and %s", first, second)
		}
		seen[first] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 seeds gave %d kinds of damage", len(seen))
	}
	dir := fresh()
	if removed, err := Wipe(dir); err != nil || removed != 3*1050+1000 {
		t.Errorf("%d bytes were wiped, %v", removed, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// leaveADisk makes a disk that is frozen, says where, and waits to be killed.
func leaveADisk() {
	d, err := New(context.Background(), 32<<20)
	if err == nil {
		_, err = d.Freeze(time.Hour)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(d.place)
	time.Sleep(time.Minute)
	os.Exit(1)
}

func TestWhatAKilledProgramLeftIsRemoved(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), asChild+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	place, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, kept := os.Stat(strings.TrimSpace(place))
	newLab(t) // while the child lives, its disk stays
	_, stays := os.Stat(strings.TrimSpace(place))
	_ = child.Process.Kill()
	_ = child.Wait()
	newLab(t)
	if _, err := os.Stat(strings.TrimSpace(place)); kept != nil || stays != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was there: %v, stayed: %v, and after its owner's end: %v", place, kept, stays, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), strings.TrimSpace(place)) {
		t.Errorf("it is mounted still, %v", err)
	}
}
