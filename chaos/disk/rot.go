//go:build linux

package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Wipe removes everything in dir, and returns how many bytes that were.
func Wipe(dir string) (removed int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("wipe: %w", err)
	}
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			removed += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("wipe: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return 0, fmt.Errorf("wipe: %w", err)
		}
	}
	return removed, nil
}

// Pick chooses one of the files that match the patterns below dir, those without
// any bytes but zeros left out. The same files and the same chance give the same choice.
func Pick(chance *rand.Rand, dir string, patterns ...string) (string, error) {
	var found []string
	for _, p := range patterns {
		paths, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			return "", fmt.Errorf("pick a file: %w", err)
		}
		found = append(found, paths...)
	}
	found = slices.DeleteFunc(found, func(path string) bool {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			return true
		}
		_, err = usedPart(path)
		return err != nil
	})
	if len(found) == 0 {
		return "", fmt.Errorf("pick a file: none with anything in it in %s matches %q", dir, patterns)
	}
	slices.Sort(found)
	return found[chance.IntN(len(found))], nil
}

// Truncate cuts a file at a random byte of its used part, and returns how many
// bytes with something in them were lost.
func Truncate(chance *rand.Rand, path string) (lost int64, err error) {
	used, err := usedPart(path)
	if err != nil {
		return 0, fmt.Errorf("truncate file: %w", err)
	}
	at := chance.Int64N(used)
	if err := os.Truncate(path, at); err != nil {
		return 0, fmt.Errorf("truncate file: %w", err)
	}
	return used - at, nil
}

// Flip turns a random bit in the used part of a file, and returns its byte.
func Flip(chance *rand.Rand, path string) (at int64, err error) {
	used, err := usedPart(path)
	if err != nil {
		return 0, fmt.Errorf("flip a bit: %w", err)
	}
	at = chance.Int64N(used)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("flip a bit: %w", err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	if err == nil {
		b[0] ^= 1 << chance.IntN(8)
		_, err = f.WriteAt(b, at)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("flip a bit: %w", err)
	}
	return at, nil
}

// usedPart is the size of a file without the zeros at its end: log files are
// made larger than what is in them.
func usedPart(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for len(data) > 0 && data[len(data)-1] == 0 {
		data = data[:len(data)-1]
	}
	if len(data) == 0 {
		return 0, fmt.Errorf("%s holds nothing", path)
	}
	return int64(len(data)), nil
}
