package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// configCmd looks at settings without starting a node.
type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Report every mistake in a YAML file of settings and routes, with its line."`
	Print configPrintCmd `cmd:"" help:"Print the settings in force for this command line, environment and file, and where each came from."`
}

type configCheckCmd struct {
	File string `arg:"" help:"The YAML file, as serve --config takes it."`
}

// Run prints each mistake on a line of its own, and fails if there are any. The
// file is looked at alone, without the environment and any flags.
func (c *configCheckCmd) Run(s *session) error {
	serve, err := serveByFile(c.File)
	if err != nil {
		return err
	}
	all := serve.file.mistakes
	for _, m := range serve.mistakes() {
		all = append(all, serve.located(m))
	}
	lines := make([]*fileMistake, 0, len(all))
	for _, err := range all {
		m := &fileMistake{path: c.File, err: err}
		errors.As(err, &m)
		lines = append(lines, m)
	}
	slices.SortStableFunc(lines, func(a, b *fileMistake) int { return cmp.Compare(a.line, b.line) })
	for _, m := range lines {
		if _, err := fmt.Fprintln(s.stdout, oneLine(errors.New(m.located()))); err != nil {
			return err
		}
	}
	if len(lines) > 0 {
		return fmt.Errorf("%s: %s", c.File, count(len(lines), "mistake"))
	}
	_, err = fmt.Fprintf(s.stdout, "%s: no mistakes, %s\n", c.File, count(len(serve.routes), "route"))
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// serveByFile is what serve would be started with if there were the file alone.
// The mistakes in it are in its file; what they are about has its default.
func serveByFile(path string) (*serveCmd, error) {
	serve, err := serveByDefault()
	if err != nil {
		return nil, err
	}
	file, err := readConfigFile(path, serve.flags)
	if err != nil {
		return nil, err
	}
	return serve, serve.takeFile(file)
}

// serveByDefault is what serve would be started with if there were no file and
// no environment.
func serveByDefault() (*serveCmd, error) {
	c := &cli{}
	parser, err := kong.New(c) // which names no variables
	if err != nil {
		return nil, fmt.Errorf("build command line: %w", err)
	}
	i := slices.IndexFunc(parser.Model.Children, func(n *kong.Node) bool { return n.Name == "serve" })
	c.Serve.flags = parser.Model.Children[i].Flags
	for _, flag := range c.Serve.flags {
		if err := flag.Reset(); err != nil {
			return nil, fmt.Errorf("take default of --%s: %w", flag.Name, err)
		}
	}
	return &c.Serve, nil
}

// takeFile takes over what a file sets that was read for c.flags.
func (c *serveCmd) takeFile(file *configFile) error {
	c.file, c.routes, c.origins = file, file.routes, map[string]origin{}
	for name, line := range file.lines {
		c.origins[name] = origin{line: line}
	}
	for name, given := range file.values {
		value, err := readFlag(file.flags[name], given)
		if err != nil {
			return fmt.Errorf("read %s again: %w", name, err)
		}
		file.flags[name].Apply(value)
	}
	return nil
}

// configPrintCmd has all flags of serve.
type configPrintCmd struct {
	serveCmd
}

// Run prints what is in force as a YAML file, if serve would start with it.
func (c *configPrintCmd) Run(s *session) error {
	if err := c.validate(); err != nil {
		return err
	}
	return c.print(s.stdout)
}

// print writes a line for each setting, and then the routes.
func (c *serveCmd) print(w io.Writer) error {
	var out strings.Builder
	line := func(text, from string) { fmt.Fprintf(&out, "%-47s # %s\n", text, from) }
	for _, flag := range c.flags {
		if flag.Name == "config" || flag.Name == "help" {
			continue
		}
		text, err := flagYAML(flag.Target)
		if err != nil {
			return fmt.Errorf("print --%s: %w", flag.Name, err)
		}
		line(flag.Name+": "+text, c.from(c.origins[flag.Name]))
	}
	if len(c.routes) > 0 {
		line(routesMember+":", c.from(c.origins[routesMember]))
	}
	for _, r := range c.routes {
		begin := "  - "
		for _, m := range r.given {
			text, err := membersYAML(m)
			if err != nil {
				return fmt.Errorf("print route %s: %w", r.Path, err)
			}
			line(begin+m.name+": "+text, c.from(origin{line: m.line}))
			begin = "    "
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (c *serveCmd) from(o origin) string {
	switch {
	case o.flag:
		return "flag"
	case o.variable != "":
		return "environment " + o.variable
	case o.line > 0:
		path := c.file.path
		if strings.ContainsFunc(path, unicode.IsControl) {
			path = fmt.Sprintf("%q", path)
		}
		return fmt.Sprintf("%s, line %d", path, o.line)
	}
	return "default"
}

// flagYAML writes the value of a flag as the file takes it.
func flagYAML(value reflect.Value) (string, error) {
	switch v := value.Interface().(type) {
	case []string:
		return listYAML(v)
	case peerList:
		peers := make([]string, 0, len(v))
		for _, p := range v {
			peers = append(peers, p.ID+"="+p.Addr)
		}
		return listYAML(peers)
	case time.Duration:
		return shortDuration(v), nil
	case slog.Level:
		return strings.ToLower(v.String()), nil
	default:
		return scalarYAML(fmt.Sprint(v))
	}
}

func membersYAML(m givenMember) (string, error) {
	if m.list {
		return listYAML(m.values)
	}
	return scalarYAML(m.values[0])
}

func listYAML(values []string) (string, error) {
	texts := make([]string, 0, len(values))
	for _, v := range values {
		text, err := scalarYAML(v)
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return "[" + strings.Join(texts, ", ") + "]", nil
}

// scalarYAML writes a text that is read back as it is: plainly, where that can
// be done.
func scalarYAML(s string) (string, error) {
	if readsPlainly("["+s+", "+s+"] # comment", s, 2) && readsPlainly("- "+s+" # comment", s, 1) {
		return s, nil
	}
	quoted, err := yaml.Marshal(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: s})
	if err != nil {
		return "", fmt.Errorf("write as YAML: %w", err)
	}
	return strings.TrimSuffix(string(quoted), "\n"), nil
}

// readsPlainly reports whether the YAML is a list of n times s, and nothing else.
func readsPlainly(text, s string, n int) bool {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) != 1 || len(doc.Content[0].Content) != n {
		return false
	}
	for _, item := range doc.Content[0].Content {
		if !plain(item) || item.Style != 0 || item.Anchor != "" || item.Value != s {
			return false
		}
	}
	return true
}

// shortDuration leaves out the units that are zero at the end: 24h, not 24h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
