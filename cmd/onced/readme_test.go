package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shown is a command of a document, and what the document says that it prints.
type shown struct{ command, prints string }

// shownIn reads the commands of a section: what follows "$ " in its code.
func shownIn(t *testing.T, document, heading string) []shown {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", document, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var all []shown
	for i, block := range strings.Split(section, "```\n") {
		if i%2 == 0 { // between two blocks of code
			continue
		}
		for line := range strings.Lines(block) {
			if command, is := strings.CutPrefix(line, "$ "); is {
				all = append(all, shown{command: strings.TrimSuffix(command, "\n")})
			} else if len(all) > 0 {
				all[len(all)-1].prints += line
			}
		}
	}
	return all
}

// shell runs the commands of a document as a reader would, on other ports.
type shell struct {
	t   *testing.T
	env []string
	dir string
	on  *strings.Replacer // the document's ports to those of the test
}

// run runs one command and returns what it prints. What it leaves in the
// background ends with the test.
func (s *shell) run(command string) string {
	s.t.Helper()
	// Files, since what is left in the background keeps a pipe open.
	var out [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		f, err := os.Create(filepath.Join(s.t.TempDir(), name))
		if err != nil {
			s.t.Fatal(err)
		}
		defer f.Close()
		out[i] = f
	}
	// Not the test's context: some commands are run when it has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", s.on.Replace(command))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, out[0], out[1]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := cmd.Start()
	if err == nil {
		s.t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }) // it may all have ended
		err = cmd.Wait()
	}
	said, _ := os.ReadFile(out[0].Name())
	if err != nil {
		complaint, _ := os.ReadFile(out[1].Name())
		s.t.Fatalf("%s: %v\n%s%s", command, err, said, complaint)
	}
	return string(said)
}

func TestInFrontOfAServiceAsTheReadmeShowsIt(t *testing.T) {
	commands := shownIn(t, "../../README.md", "In front of your service")
	if len(commands) != 4 {
		t.Fatalf("%d commands; want four", len(commands))
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	base := freePorts()
	port := func(i int) string { return fmt.Sprint(base + i) }
	s := &shell{
		t: t, dir: root, on: strings.NewReplacer("9900", port(0), "9001", port(1), "9002", port(2)),
		env: append(os.Environ(), "PAYMENTS_ADDR=127.0.0.1:"+port(0), "ONCED_CLUSTER_DIR="+filepath.Join(t.TempDir(), "cluster"),
			"ONCED_GATEWAY_BASE="+port(0), "ONCED_HTTP_BASE="+port(3), "ONCED_RAFT_BASE="+port(6), "ONCED_UPSTREAM="),
	}
	s.run(commands[0].command)
	charges := "http://127.0.0.1:" + port(0) + "/charges"
	await(t, "the payment service", func() bool {
		res, err := http.Get(charges)
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
	t.Cleanup(func() { s.run("scripts/cluster down --wipe") })
	for _, c := range commands[1:] {
		if got := s.run(c.command); c.prints != "" && got != c.prints {
			t.Errorf("%s\nprints:\n%s\nREADME.md says:\n%s", c.command, got, c.prints)
		}
	}
	res, err := http.Get(charges)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var made struct{ Charges []json.RawMessage }
	body, err := io.ReadAll(res.Body)
	if err != nil || json.Unmarshal(body, &made) != nil || len(made.Charges) != 3 {
		t.Errorf("charges %s, error %v; want two without a key and one with it", bytes.TrimSpace(body), err)
	}
}

// await waits until ok is true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}
