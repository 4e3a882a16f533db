package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// samples are three values for each flag of serve, written as they are printed:
// for the command line, the environment and the file. They go together, but for
// peers and join.
var samples = map[string][3]string{
	"node-id":               {"n1", "n2", "n3"},
	"data-dir":              {"a", "b # b", "c: c"},
	"http-addr":             {"127.0.0.1:27001", "127.0.0.1:27002", "127.0.0.1:27003"},
	"raft-addr":             {"127.0.0.1:27011", "127.0.0.1:27012", "127.0.0.1:27013"},
	"peers":                 {"n1=127.0.0.1:27011", "n2=127.0.0.1:27012", "n3=127.0.0.1:27013"},
	"join":                  {"127.0.0.1:27031", "127.0.0.1:27032", "127.0.0.1:27033"},
	"insecure":              {"true", "false", "true"},
	"ttl":                   {"1h", "1h30m", "1m30s"},
	"lease":                 {"200ms", "1s", "1h"},
	"unique":                {"email", "phone", "null"},
	"max-wait":              {"1s", "2s", "3s"},
	"max-body":              {"1KiB", "2MiB", "1025"},
	"max-in-hand":           {"1", "2", "3"},
	"max-waiters":           {"0", "2", "3"},
	"drain-delay":           {"1s", "2s", "3s"},
	"log-level":             {"debug", "warn", "error"},
	"log-format":            {"json", "text", "json"},
	"log-store":             {"bolt", "wal", "bolt"},
	"raft-profile":          {"wan", "lan", "wan"},
	"request-timeout":       {"1s", "2s", "3s"},
	"max-clock-skew":        {"2s", "3s", "4s"},
	"snapshot-entries":      {"1", "2", "3"},
	"snapshot-interval":     {"1s", "2s", "3s"},
	"trailing-entries":      {"1", "2", "3"},
	"gateway-addr":          {"127.0.0.1:27021", "127.0.0.1:27022", "127.0.0.1:27023"},
	"upstream":              {"http://a", "https://b:1/base", "http://[::1]:9900"},
	"upstream-health":       {"/health", "/ready?full=1", "/"},
	"upstream-host":         {"true", "false", "true"},
	"upstream-idle-timeout": {"1s", "2s", "3s"},
	"gateway-key":           {"required", "off", "optional"},
	"gateway-on-lapse":      {"retry", "block", "retry"},
	"gateway-lease":         {"1s", "2s", "1h"},
	"gateway-timeout":       {"1s", "2s", "1h"},
	"gateway-max-request":   {"1", "1KiB", "16MiB"},
	"gateway-max-response":  {"1", "1KiB", "16MiB"},
	"gateway-keep-headers":  {"X-A", "x-b", "X-Charge"},
	"gateway-namespace":     {"host", "header:X-Tenant", "cookie:session"},
	"gateway-max-buffered":  {"1MiB", "2MiB", "1GiB"},
	"max-waiters-per-key":   {"1", "2", "3"},
}

// writeFile returns the path of a file in a directory of its own.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "onced.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// variable is the one that stands for a flag.
func variable(flag string) string {
	return "ONCED_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// printed returns the lines that print writes, as value and origin by name.
func printed(t *testing.T, c *serveCmd) map[string][2]string {
	t.Helper()
	var out bytes.Buffer
	if err := c.print(&out); err != nil {
		t.Fatal(err)
	}
	lines := map[string][2]string{}
	for line := range strings.Lines(out.String()) {
		i := strings.LastIndex(line, " # ")
		name, value, _ := strings.Cut(line[:i], ": ")
		lines[name] = [2]string{strings.TrimSpace(value), strings.TrimSpace(line[i+3:])}
	}
	return lines
}

func TestEveryFlagByCommandLineEnvironmentAndFile(t *testing.T) {
	bare, err := serveByDefault()
	if err != nil {
		t.Fatal(err)
	}
	defaults := printed(t, bare)
	for _, flag := range bare.flags {
		if flag.Name == "config" || flag.Name == "help" {
			continue
		}
		for set := range 8 {
			t.Run(fmt.Sprintf("%s/%03b", flag.Name, set), func(t *testing.T) { tryOrigins(t, flag, set, defaults[flag.Name][0]) })
		}
	}
}

// tryOrigins gives the flag its values in those of the command line, the
// environment and the file that the bits of set stand for.
func tryOrigins(t *testing.T, flag *kong.Flag, set int, want string) {
	values, ok := samples[flag.Name]
	if !ok {
		t.Fatal("there are no samples for this flag")
	}
	from := "default"
	args, text := []string{"config", "print"}, ""
	if set&1 != 0 {
		text, _ = scalarYAML(values[2])
		text = "# first line\n" + flag.Name + ": " + text
		args = append(args, "--config", writeFile(t, text))
		want, from = values[2], args[3]+", line 2"
	}
	if set&2 != 0 {
		t.Setenv(variable(flag.Name), values[1])
		want, from = values[1], "environment "+variable(flag.Name)
	}
	if set&4 != 0 {
		args = append(args, "--"+flag.Name+"="+values[0])
		want, from = values[0], "flag"
	}
	if flag.Target.Kind() == reflect.Slice && from != "default" {
		want, _ = listYAML([]string{want})
	} else if from != "default" {
		want, _ = scalarYAML(want)
	}
	var c cli
	if _, err := parse(&c, args, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	if got := printed(t, &c.Config.Print.serveCmd)[flag.Name]; got != [2]string{want, from} {
		t.Errorf("got %q, want %q", got, [2]string{want, from})
	}
}

// settings are what a node is started with, without where it came from.
func settings(c serveCmd) serveCmd {
	c.Config, c.file, c.flags, c.origins = "", nil, nil, nil
	routes := c.routes
	c.routes = nil
	for _, r := range routes {
		c.routes = append(c.routes, fileRoute{Route: r.Route})
	}
	return c
}

func TestWhatIsPrintedIsAFileOfTheSameSettings(t *testing.T) {
	for place, where := range []string{"command line", "environment", "file"} {
		t.Run(where, func(t *testing.T) {
			args, file := []string{}, everyMember
			for name, values := range samples {
				if name == "join" {
					continue
				}
				switch place {
				case 0:
					args = append(args, "--"+name+"="+values[place])
				case 1:
					t.Setenv(variable(name), values[place])
				case 2:
					text, err := scalarYAML(values[place])
					if err != nil {
						t.Fatal(err)
					}
					file += name + ": " + text + "\n"
				}
			}
			path := writeFile(t, file)
			var out bytes.Buffer
			if err := run(t.Context(), append([]string{"config", "print", "--config", path}, args...), nil, &out, new(bytes.Buffer)); err != nil {
				t.Fatal(err)
			}
			want, err := parseServe(t, file, args...)
			if err != nil {
				t.Fatal(err)
			}
			for name := range samples {
				os.Unsetenv(variable(name)) // t.Setenv puts back what was there
			}
			got, err := parseServe(t, out.String())
			if err != nil {
				t.Fatalf("%v in\n%s", err, &out)
			}
			if len(want.routes) == 0 || !reflect.DeepEqual(settings(got), settings(want)) {
				t.Errorf("got %+v, want %+v, by\n%s", settings(got), settings(want), &out)
			}
		})
	}
}

func TestAMistakeInAValueNamesWhereItCameFrom(t *testing.T) {
	const atHand = "--http-addr 127.0.0.1:27001"
	for name, tc := range map[string]struct {
		file string
		args string
		want string // FILE stands for its path
	}{
		"of serve":               {"\nttl: 1ms", "", "config file FILE, line 2: --ttl 1ms: use 1s to 720h"},
		"of the cluster":         {"node-id: n/1", "", `config file FILE, line 1: node id "n/1": use 1 to 64`},
		"of the gateway":         {"gateway-addr: 127.0.0.1:27001\nupstream: http://h\n\ngateway-lease: 1ms", "", "config file FILE, line 4: --gateway-lease 1ms: use 1s to 1h"},
		"an address":             {"http-addr: 0.0.0.0:8001", "", "config file FILE, line 1: --http-addr 0.0.0.0:8001 is beyond loopback"},
		"an upstream":            {"gateway-addr: 127.0.0.1:27001\nupstream:\n- http://h\n- ftp://h", "", `config file FILE, line 2: --upstream: upstream "ftp://h"`},
		"an upstream left out":   {"\ngateway-addr: 127.0.0.1:27001", "", "config file FILE, line 2: --gateway-addr needs --upstream"},
		"an upstream alone":      {"\nupstream: http://h", "", "config file FILE, line 2: --upstream and routes are of the gateway"},
		"routes alone":           {"\n\nroutes: [{path: /}]", "", "config file FILE, line 3: --upstream and routes are of the gateway"},
		"peers of the file":      {"ttl: 1h\npeers: {n2: '127.0.0.1:27012'}", "", "config file FILE, line 2: peer list does not name this node (n1)"},
		"peers and join":         {"ttl: 1h\npeers: {n1: '127.0.0.1:7001'}", "--join 127.0.0.1:27012", "config file FILE, line 2: both --join and --peers"},
		"of the command line":    {"ttl: 1h", "--ttl 1ms", "--ttl 1ms: use 1s to 720h"},
		"of another flag":        {"ttl: 1h", "--lease 1ms", "--lease 1ms: use 100ms to 1h"},
		"of a route":             {"gateway-addr: 127.0.0.1:27001\nupstream: http://h\nroutes:\n- path: /a\n  ttl: 1ms", "", "config file FILE, line 5: route /a: ttl 1ms: use 1s to 720h"},
		"in the default, once":   {"gateway-addr: 127.0.0.1:27001\nupstream: http://h\ngateway-lease: 1ms\nroutes:\n- path: /a", "", "config file FILE, line 3: --gateway-lease 1ms: use 1s to 1h"},
		"in the default, a flag": {"gateway-addr: 127.0.0.1:27001\nupstream: http://h\nroutes:\n- path: /a", "--gateway-lease 1ms", "--gateway-lease 1ms: use 1s to 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, tc.file)
			want := strings.ReplaceAll(tc.want, "FILE", path)
			for _, command := range []string{"serve", "config print"} {
				args := strings.Fields(command + " --config " + path + " --data-dir " + t.TempDir() + " " + tc.args)
				var stdout bytes.Buffer
				err := run(t.Context(), args, nil, &stdout, new(bytes.Buffer))
				if err == nil || !strings.HasPrefix(oneLine(err), want) || strings.Contains(err.Error(), "\n") || stdout.Len() > 0 {
					t.Errorf("%s: got %v, want %s and no more; stdout %q", command, err, want, &stdout)
				}
			}
		})
	}
	t.Setenv("ONCED_TTL", "1ms")
	if _, err := parseServe(t, "ttl: 1h"); err != nil {
		t.Error(err)
	}
	err := run(t.Context(), strings.Fields("serve --config "+writeFile(t, "ttl: 1h")+" "+atHand), nil, new(bytes.Buffer), new(bytes.Buffer))
	if err == nil || err.Error() != "--ttl 1ms: use 1s to 720h" {
		t.Errorf("of the environment: %v", err)
	}
}

// wrongValues are values that no node starts with, for each flag of serve.
var wrongValues = map[string]string{
	"node-id": "n/1", "data-dir": "''", "http-addr": "nowhere", "raft-addr": "nowhere", "peers": "n1=nowhere", "join": "nowhere", "insecure": "maybe",
	"ttl": "1ms", "lease": "1ms", "unique": "[a, a]", "max-wait": "1ms", "max-body": "1", "max-in-hand": "0", "max-waiters": "-1", "drain-delay": "1h",
	"log-level": "loud", "log-format": "xml", "log-store": "paper", "raft-profile": "space", "request-timeout": "1ms", "max-clock-skew": "1us",
	"snapshot-entries": "0", "snapshot-interval": "1ms", "trailing-entries": "0",
	"gateway-addr": "nowhere", "upstream": "nowhere", "upstream-health": "health", "upstream-host": "maybe", "upstream-idle-timeout": "1us",
	"gateway-key": "perhaps", "gateway-on-lapse": "shrug", "gateway-lease": "1ms", "gateway-timeout": "1us", "gateway-max-request": "1GiB",
	"gateway-max-response": "0", "gateway-keep-headers": "Set-Cookie", "gateway-namespace": "moon", "gateway-max-buffered": "1", "max-waiters-per-key": "0",
}

func TestAWrongValueOfEveryFlagIsReportedWithItsLine(t *testing.T) {
	for name := range samples {
		t.Run(name, func(t *testing.T) {
			if wrongValues[name] == "" {
				t.Fatal("there is no wrong value for this flag")
			}
			path := writeFile(t, "# first line\n"+name+": "+wrongValues[name]+"\n")
			var stdout bytes.Buffer
			if err := run(t.Context(), []string{"config", "check", path}, nil, &stdout, new(bytes.Buffer)); err == nil {
				t.Errorf("nothing is wrong: %s", &stdout)
			}
			for line := range strings.Lines(stdout.String()) {
				if !strings.HasPrefix(line, path+", line 2: ") {
					t.Errorf("got %q", line)
				}
			}
		})
	}
}

func FuzzScalarIsReadBack(f *testing.F) {
	for _, s := range []string{"", "null", "yes", "a # b", "a: b", "- a", "*a", "&a b", "!!str a", " a ", "a\nb", "\x7f", "\u2028", "]", "a, b", "|", ">", "%", "---", "<<", "é", "0:", "a:"} {
		f.Add(s)
	}
	bare, err := serveByDefault()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scalar, err := scalarYAML(s)
		if err != nil {
			return // no text
		}
		list, err := listYAML([]string{s, s})
		if err != nil {
			t.Fatal(err)
		}
		file := parseConfigFile("x", []byte("data-dir: "+scalar+" # a: comment\nunique: "+list+" # another"), bare.flags)
		if len(file.mistakes) > 0 || file.values["data-dir"] != s || !reflect.DeepEqual(file.values["unique"], []any{s, s}) {
			t.Fatalf("%q is written %s and %s, and read as %q, %v", s, scalar, list, file.values, file.mistakes)
		}
	})
}
