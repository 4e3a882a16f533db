package main

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// parseServe reads a command line of serve, with a YAML file if one is given.
func parseServe(t *testing.T, file string, args ...string) (serveCmd, error) {
	t.Helper()
	args = append([]string{"serve"}, args...)
	if file != "" {
		path := filepath.Join(t.TempDir(), "onced.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	var c cli
	_, err := parse(&c, args, io.Discard)
	return c.Serve, err
}

func TestOneStructTakesFlagsEnvironmentAndFile(t *testing.T) {
	want := peerList{{ID: "n1", Addr: "127.0.0.1:7001"}, {ID: "n2", Addr: "127.0.0.1:7002"}}
	check := func(name string, c serveCmd, err error) {
		t.Helper()
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !reflect.DeepEqual(c.Peers, want) || !reflect.DeepEqual(c.Unique, []string{"email", "phone"}):
			t.Errorf("%s: peers %v, unique %v", name, c.Peers, c.Unique)
		case c.TTL != time.Hour || c.MaxBody != 2<<20 || !c.Insecure || c.LogLevel != -4:
			t.Errorf("%s: ttl %v, max body %d, insecure %v, level %v", name, c.TTL, c.MaxBody, c.Insecure, c.LogLevel)
		}
	}
	c, err := parseServe(t, "", "--peers", "n1=127.0.0.1:7001,n2=127.0.0.1:7002", "--unique", "email,phone",
		"--ttl", "1h", "--max-body", "2MiB", "--insecure", "--log-level", "debug")
	check("flags", c, err)
	c, err = parseServe(t, `
# comment
peers:
  n1: 127.0.0.1:7001
  n2: 127.0.0.1:7002
unique: [email, phone]
ttl: 1h
max-body: 2097152
insecure: true
log-level: debug
`)
	check("file", c, err)
	c, err = parseServe(t, `
peers: n1=127.0.0.1:7001,n2=127.0.0.1:7002
unique: email,phone
ttl: "1h"
max-body: 2MiB
insecure: yes
log-level: DEBUG
`)
	check("file, plain values", c, err)
	for name, value := range map[string]string{
		"ONCED_PEERS": "n1=127.0.0.1:7001,n2=127.0.0.1:7002", "ONCED_UNIQUE": "email,phone", "ONCED_TTL": "1h",
		"ONCED_MAX_BODY": "2MiB", "ONCED_INSECURE": "true", "ONCED_LOG_LEVEL": "debug",
	} {
		t.Setenv(name, value)
	}
	c, err = parseServe(t, "")
	check("environment", c, err)
}

func TestFlagsGoBeforeEnvironmentAndThatBeforeTheFile(t *testing.T) {
	const file = "node-id: file\ndata-dir: file\nttl: 1h"
	t.Setenv("ONCED_NODE_ID", "environment")
	t.Setenv("ONCED_DATA_DIR", "environment")
	c, err := parseServe(t, file, "--node-id", "flag")
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeID != "flag" || c.DataDir != "environment" || c.TTL != time.Hour || c.Lease != 30*time.Second {
		t.Errorf("got %q, %q, %v, %v", c.NodeID, c.DataDir, c.TTL, c.Lease)
	}
}

func TestTheFileMayBeNamedByTheEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "onced.yaml")
	if err := os.WriteFile(path, []byte("node-id: file"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ONCED_CONFIG", path)
	if c, err := parseServe(t, ""); err != nil || c.NodeID != "file" {
		t.Errorf("got %q, %v", c.NodeID, err)
	}
}

func TestAnEmptyFileSetsNothing(t *testing.T) {
	for _, file := range []string{"\n", "# comment\n", "---\n", "null\n"} {
		if c, err := parseServe(t, file); err != nil || c.NodeID != "n1" {
			t.Errorf("%q: got %q, %v", file, c.NodeID, err)
		}
	}
}

func TestMistakesInTheFileAreNamedWithTheirLine(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"unknown member":        {"ttl: 1h\nfrobnicate: 1", `line 2: unknown member "frobnicate"`},
		"underscores":           {"node_id: n1", `line 1: unknown member "node_id", did you mean "node-id"?`},
		"the file itself":       {"config: x", `line 1: unknown member "config"`},
		"member twice":          {"ttl: 1h\nttl: 2h", `line 2: ttl is set twice`},
		"wrong type":            {"ttl: 1h\nmax-in-hand: many", `line 2: --max-in-hand`},
		"bad duration":          {"ttl: soon", `line 1: --ttl`},
		"no value":              {"node-id:", `line 1: node-id: it has no value`},
		"list of lists":         {"unique: [[a]]", `line 1: unique: use a list of plain values`},
		"map of maps":           {"peers:\n  n1: {a: b}", `line 2: peers: use a map of names to plain values`},
		"null in a list":        {"unique:\n- a\n-", `line 3: unique: use a list of plain values`},
		"null in a map":         {"peers:\n  n1:", `line 2: peers: use a map of names to plain values`},
		"comma in a peer":       {"peers: ['a=b:1,c=d:2']", `line 1: peers: use a list of plain values`},
		"list for one value":    {"ttl: [1h]", `line 1: ttl: use a plain value`},
		"map for one value":     {"ttl: {a: 1h}", `line 1: ttl: use a plain value`},
		"map for a list":        {"unique: {a: b}", `line 1: unique: use a plain value or a list`},
		"bad peer":              {"peers: n1", `line 1: --peers`},
		"not a map":             {"- ttl", `line 1: it must be a map`},
		"not YAML":              {"a: b: c", `mapping values are not allowed`},
		"more than one":         {"ttl: 1h\n---\nttl: 2h", `more than one document`},
		"bad choice":            {"log-store: paper", `--log-store must be one of`},
		"an alias":              {"node-id: &a n1\ndata-dir: *a", `line 2: data-dir: aliases are not read`},
		"an alias in a list":    {"node-id: &a n1\nunique: [*a]", `line 2: unique: use a list of plain values`},
		"an alias as a name":    {"node-id: &a n1\n*a : n2", `line 2: a member is the name of a flag: there are no merge keys and no aliases`},
		"an alias to nowhere":   {"ttl: 1h\nnode-id: *a", `line 2: unknown anchor 'a' referenced`},
		"a merge key":           {"<<: {ttl: 1h}", `line 1: a member is the name of a flag: there are no merge keys`},
		"a list as a name":      {"[ttl]: 1h", `line 1: a member is the name of a flag`},
		"no text":               {"ttl: 1h\nnode-id: \xff", `line 2: it is not UTF-8`},
		"a control character":   {"ttl: 1h\n\nnode-id: \x01", `line 3: it holds the control character U+0001`},
		"not YAML, on line 1":   {"a: b: c", `line 1: mapping values are not allowed`},
		"not YAML, scanned":     {"ttl: 1h\na: b: c", `line 2: mapping values are not allowed`},
		"not YAML, a list":      {"ttl: 1h\n- y\n", `line 2: did not find expected key`},
		"not YAML, at the end":  {"ttl: 1h\nlease: 1s\n}\n", `line 3: did not find expected key`},
		"not YAML, one line":    {"[", `line 1: did not find expected node content`},
		"not YAML, brackets":    {"ttl: 1h\nunique: [a\nlease: 1s\n", `line 2: did not find expected ',' or ']'`},
		"not YAML, second part": {"ttl: 1h\n---\n- a\nb\n", `line 4: could not find expected ':'`},
		"a bad choice":          {"ttl: 1h\nlog-store: paper", `line 2: --log-store must be one of wal, bolt but got "paper"`},
		"several":               {"bogus: 1\nttl: soon\nlease:", "lease: it has no value"},
		"a recursive structure": {"peers: &a [*a]", `peers: use a list of plain values`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseServe(t, tc.file)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	_, err := parseServe(t, "", "--config", "/nowhere/onced.yaml")
	if err == nil || !strings.Contains(err.Error(), "/nowhere/onced.yaml: no such file") {
		t.Errorf("missing file: %v", err)
	}
}

func TestByteSizes(t *testing.T) {
	for text, want := range map[string]byteSize{
		"0": 0, "1048576": 1 << 20, "1KiB": 1 << 10, "512 KiB": 512 << 10, "16MiB": 16 << 20, "2GiB": 2 << 30,
	} {
		if got, err := parseByteSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1MB", "KiB", "1.5MiB", "9223372036854775807KiB", "1e3"} {
		if got, err := parseByteSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestTheDefaultsAreAValidSingleNode(t *testing.T) {
	c, err := parseServe(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.validate(); err != nil {
		t.Error(err)
	}
	config := c.clusterConfig(nil, nil)
	if config.DataDir != "./onced-data" || config.HTTPAddr != "127.0.0.1:8001" || len(config.Peers) > 0 || config.Join != "" {
		t.Errorf("got %+v", config)
	}
}

func TestSettingsThatShouldAgreeAreTheSameInAnyOrder(t *testing.T) {
	a := serveCmd{Unique: []string{"email", "phone"}, TTL: time.Hour}
	b := serveCmd{Unique: []string{"phone", "email"}, TTL: time.Hour, NodeID: "n2"}
	other := serveCmd{Unique: []string{"email"}, TTL: time.Hour}
	settings := func(c serveCmd) string { return c.clusterConfig(nil, nil).Settings }
	if settings(a) != settings(b) || settings(a) == settings(other) {
		t.Errorf("got %q, %q, %q", settings(a), settings(b), settings(other))
	}
}
