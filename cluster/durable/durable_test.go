package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteFileReplacesWholeAndLeavesNothingElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for range 2 {
		if err := MakeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "f")
	// A write that a crash cut short.
	if err := os.WriteFile(path+temporary, []byte("left over and long"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first and longer", "second"} {
		if err := WriteFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("the directory holds %v, want f alone", names)
	}
}

func TestWriteFileKeepsTheOldFileWhenItFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := WriteFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	if WriteFile(path, []byte("new")) == nil {
		t.Error("a write that could not be made reported none")
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("read %q, want old", got)
	}
}
