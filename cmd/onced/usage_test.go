package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestWrongUseIsOneLineThatNamesFaultAndFix(t *testing.T) {
	for name, tc := range map[string]struct{ args, want string }{
		"no command":            {"", `expected one of "serve", "status", "key", "node", "backup"`},
		"unknown command":       {"sevre", `unexpected argument sevre, did you mean "serve"?`},
		"unknown flag":          {"serve --bogus", `unknown flag --bogus`},
		"later release's flag":  {"serve --tls-cert cert.pem", `unknown flag --tls-cert`},
		"flag of another":       {"serve --fence 1", `unknown flag --fence`},
		"extra argument":        {"serve now", `unexpected argument now`},
		"missing value":         {"serve --node-id", `--node-id`},
		"names its help":        {"key claim", `(see: onced key claim --help)`},
		"bad duration":          {"serve --ttl soon", `--ttl: expected duration but got "soon"`},
		"bad number":            {"serve --max-in-hand many", `--max-in-hand`},
		"bad size":              {"serve --max-body lots", `--max-body: "lots" is not a size`},
		"bad level":             {"serve --log-level loud", `--log-level`},
		"bad format":            {"serve --log-format xml", `--log-format must be one of "text","json" but got "xml"`},
		"bad log store":         {"serve --log-store paper", `--log-store must be one of "wal","bolt" but got "paper"`},
		"bad profile":           {"serve --raft-profile space", `--raft-profile must be one of "lan","wan"`},
		"bad node id":           {"serve --node-id n/1", `node id "n/1": use 1 to 64 of`},
		"no data directory":     {"serve --data-dir=", `no data directory: name one with --data-dir`},
		"one port for both":     {"serve --http-addr 127.0.0.1:7001", `--http-addr and --raft-addr are both 127.0.0.1:7001: clients and nodes need a port each`},
		"ttl too short":         {"serve --ttl 1ms", `--ttl 1ms: use 1s to 720h`},
		"ttl too long":          {"serve --ttl 721h", `use 1s to 720h`},
		"lease too short":       {"serve --lease 1ms", `--lease 1ms: use 100ms to 1h`},
		"wait negative":         {"serve --max-wait=-1s", `--max-wait -1s: use 1s to 1h`},
		"body too large":        {"serve --max-body 1GiB", `--max-body 1073741824: use 1KiB to 16MiB`},
		"nothing in hand":       {"serve --max-in-hand 0", `--max-in-hand 0: use at least 1`},
		"drain too long":        {"serve --drain-delay 1h", `--drain-delay 1h0m0s: use 0s to 15s`},
		"timeout too short":     {"serve --request-timeout 1ms", `request timeout 1ms`},
		"unique twice":          {"serve --unique email,email", `--unique: a name is listed twice`},
		"unique empty":          {"serve --unique email,,phone", `--unique: a name is empty`},
		"http address":          {"serve --http-addr nonsense", `--http-addr "nonsense" is not host:port`},
		"http port":             {"serve --http-addr 127.0.0.1:99999", `--http-addr "127.0.0.1:99999" has no valid port`},
		"http beyond loopback":  {"serve --http-addr 0.0.0.0:8001", `--http-addr 0.0.0.0:8001 is beyond loopback`},
		"http everywhere":       {"serve --http-addr :8001", `--http-addr :8001 is beyond loopback`},
		"http by name":          {"serve --http-addr example.com:8001", `is beyond loopback`},
		"raft beyond loopback":  {"serve --raft-addr 10.0.0.1:7001", `--raft-addr 10.0.0.1:7001 is beyond loopback`},
		"how to go beyond":      {"serve --http-addr 10.0.0.1:8001", `use 127.0.0.1, or --insecure`},
		"peers malformed":       {"serve --peers n1", `--peers: "n1" is not id=host:port`},
		"peers without itself":  {"serve --node-id n9 --peers n1=127.0.0.1:7001", `peer list does not name this node (n9)`},
		"peers, other address":  {"serve --peers n1=127.0.0.1:7009", `make them the same`},
		"peer twice":            {"serve --peers n1=127.0.0.1:7001,n1=127.0.0.1:7002", `peer n1 is listed twice`},
		"peer address twice":    {"serve --peers n1=127.0.0.1:7001,n2=127.0.0.1:7001", `peer address 127.0.0.1:7001 is listed twice`},
		"peers and join":        {"serve --join 127.0.0.1:7002 --peers n1=127.0.0.1:7001", `both --join and --peers`},
		"all mistakes at once":  {"serve --ttl 1ms --lease 1ms", `--ttl 1ms: use 1s to 720h; --lease 1ms: use 100ms to 1h`},
		"key missing":           {"key get", `expected "<key>"`},
		"fence missing":         {"key renew k", `missing flags: --fence=UINT-64`},
		"fence malformed":       {"key renew k --fence=-1", `--fence`},
		"response missing":      {"key complete k --fence 1", `the response has no status: give --status`},
		"header malformed":      {"key complete k --fence 1 --status 200 --header x", `--header "x" is not NAME:VALUE`},
		"body file missing":     {"key complete k --fence 1 --status 200 --body @/nowhere", `read body: open /nowhere: no such file`},
		"resolve with neither":  {"key resolve k", `give --status, or --retry`},
		"resolve with both":     {"key resolve k --retry --status 200", `exclude each other`},
		"bad policy":            {"key claim k --on-lapse perhaps", `--on-lapse must be one of`},
		"namespace of a claim":  {"key claim k --namespace a", `unknown flag --namespace`},
		"bad state":             {"key list --state lost", `--state must be one of`},
		"no address":            {"status --addr=", `--addr names no node: give host:port`},
		"bad address":           {"status --addr http://127.0.0.1:8001", `--addr "http://127.0.0.1:8001" is not host:port`},
		"unreachable":           {"status --addr 127.0.0.1:1", `127.0.0.1:1 cannot be reached`},
		"backup file is there":  {"backup /dev/null", `/dev/null exists: name another file, or give --force`},
		"node without address":  {"node add n4", `expected "<raft-addr>"`},
		"gateway alone":         {"serve --gateway-addr 127.0.0.1:27001", `--gateway-addr needs --upstream`},
		"upstream alone":        {"serve --upstream http://127.0.0.1:27002", `say with --gateway-addr where it listens`},
		"upstream, no scheme":   {"serve --gateway-addr 127.0.0.1:27001 --upstream 127.0.0.1:27002", `--upstream "127.0.0.1:27002" is no URL`},
		"upstream, its path":    {"serve --gateway-addr 127.0.0.1:27001 --upstream http://h --upstream-health health", `--upstream-health "health": begin it with /`},
		"gateway beyond":        {"serve --gateway-addr 0.0.0.0:27001 --upstream http://h", `--gateway-addr 0.0.0.0:27001 is beyond loopback`},
		"gateway lease":         {"serve --gateway-addr 127.0.0.1:27001 --upstream http://h --gateway-lease 0s", `--gateway-lease 0s: use 1s to 1h`},
		"gateway namespace":     {"serve --gateway-addr 127.0.0.1:27001 --upstream http://h --gateway-namespace header:", `--gateway-namespace "header:": use authorization`},
		"gateway buffers":       {"serve --gateway-addr 127.0.0.1:27001 --upstream http://h --gateway-max-buffered 1", `--gateway-max-buffered 1: use at least 1MiB`},
		"waiters per key":       {"serve --gateway-addr 127.0.0.1:27001 --upstream http://h --max-waiters-per-key 0", `--max-waiters-per-key 0: use at least 1`},
		"idle timeout":          {"serve --gateway-addr 127.0.0.1:27001 --upstream http://h --upstream-idle-timeout 0s", `--upstream-idle-timeout 0s: use at least 1ms`},
		"config alone":          {"config", `expected one of "check", "print"`},
		"check what":            {"config check", `expected "<file>"`},
		"check, no file":        {"config check /nowhere/onced.yaml", `read config file: open /nowhere/onced.yaml: no such file`},
		"check, a directory":    {"config check /", `read config file: read /: is a directory`},
		"print, wrong flag":     {"config print --bogus", `unknown flag --bogus (see: onced config print --help)`},
		"print, wrong value":    {"config print --ttl 1ms", `--ttl 1ms: use 1s to 720h`},
		"version takes nothing": {"version 2", `unexpected argument 2`},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), strings.Fields(tc.args), strings.NewReader(""), &stdout, &stderr)
			if err == nil {
				t.Fatal("no error")
			}
			line := oneLine(err)
			if !strings.Contains(line, tc.want) {
				t.Errorf("got %q, want %q in it", line, tc.want)
			}
			if len(line) > 400 || strings.Contains(line, "\n") || stdout.Len()+stderr.Len() > 0 {
				t.Errorf("more than one line: %q, stdout %q, stderr %q", line, &stdout, &stderr)
			}
		})
	}
}

func TestHelpIsPrintedAndIsNoError(t *testing.T) {
	for _, args := range []string{"--help", "serve --help", "key --help", "key claim --help", "config check --help", "config print --help", "node --help", "backup --help"} {
		var stdout, stderr bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), strings.NewReader(""), &stdout, &stderr); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		if !strings.HasPrefix(stdout.String(), "Usage: onced") || stderr.Len() > 0 {
			t.Errorf("%s: stdout %q, stderr %q", args, &stdout, &stderr)
		}
	}
}
