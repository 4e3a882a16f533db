package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"

	"github.com/onced/onced/cluster"
)

// errConfigFile marks a mistake in the YAML file.
var errConfigFile = errors.New("config file")

// configFile is the YAML file: a map from flag name to the value that the flag
// would be given. A list stands for the comma-separated form, and a map for
// name=value pairs of it.
//
// It is read with yaml.v3 itself and not with kong-yaml, which silently drops
// members that it does not know and knows no line numbers.
type configFile struct {
	path   string
	values map[string]string
	lines  map[string]int
	routes []fileRoute
}

// resolveConfigFile has the flags of the command that is run take their values
// from the file that --config names, if it names one. Every mistake in the file
// is reported.
func resolveConfigFile(ctx *kong.Context) (*configFile, error) {
	flags := ctx.Selected().Flags
	for _, flag := range flags {
		if flag.Name != "config" {
			continue
		}
		path, _ := ctx.FlagValue(flag).(string)
		if path == "" {
			return nil, nil
		}
		file, err := readConfigFile(path)
		if file == nil {
			return nil, err
		}
		if err := errors.Join(err, file.checkNames(flags), file.checkValues(flags)); err != nil {
			return nil, err
		}
		ctx.AddResolver(file)
		return file, nil
	}
	return nil, nil
}

// readConfigFile reads the file. With an error it returns what could be read, or
// nil if that is nothing.
func readConfigFile(path string) (*configFile, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %w: %w", errConfigFile, err)
	}
	f := &configFile{path: path, values: map[string]string{}, lines: map[string]int{}}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return f, nil
	} else if err != nil {
		return nil, fmt.Errorf("%w %s: %w", errConfigFile, path, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w %s: it holds more than one document", errConfigFile, path)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return f, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, f.wrong(root, "it must be a map of flag names to values")
	}
	return f, f.take(root)
}

func (f *configFile) wrong(at *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%w %s, line %d: %s", errConfigFile, f.path, at.Line, fmt.Sprintf(format, args...))
}

func (f *configFile) take(root *yaml.Node) error {
	var errs []error
	for i := 0; i < len(root.Content); i += 2 {
		name, value := root.Content[i], root.Content[i+1]
		if _, twice := f.lines[name.Value]; twice {
			errs = append(errs, f.wrong(name, "%s is set twice", name.Value))
			continue
		}
		f.lines[name.Value] = name.Line
		var err error
		if name.Value == routesMember {
			f.routes, err = f.takeRoutes(value)
		} else if f.values[name.Value], err = f.flagText(name.Value, value); err != nil {
			delete(f.values, name.Value)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// flagText is value as it would be written behind the flag.
func (f *configFile) flagText(name string, value *yaml.Node) (string, error) {
	var parts []string
	switch value.Kind {
	case yaml.ScalarNode:
		if value.Tag == "!!null" {
			return "", f.wrong(value, "%s has no value", name)
		}
		return value.Value, nil
	case yaml.SequenceNode:
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				return "", f.wrong(item, "%s: use a list of plain values", name)
			}
			parts = append(parts, item.Value)
		}
	case yaml.MappingNode:
		for i := 0; i < len(value.Content); i += 2 {
			member, item := value.Content[i], value.Content[i+1]
			if item.Kind != yaml.ScalarNode || strings.ContainsAny(member.Value+item.Value, ",=") {
				return "", f.wrong(member, "%s: use a map of names to plain values", name)
			}
			parts = append(parts, member.Value+"="+item.Value)
		}
	default:
		return "", f.wrong(value, "%s: use a plain value, a list or a map", name)
	}
	return strings.Join(parts, ","), nil
}

// Validate is part of kong.Resolver; checkNames does the work, against the
// flags of the command that is run.
func (f *configFile) Validate(*kong.Application) error { return nil }

func (f *configFile) checkNames(flags []*kong.Flag) error {
	known := map[string]bool{}
	for _, flag := range flags {
		known[flag.Name] = flag.Name != "config" && flag.Name != "help"
	}
	names := make([]string, 0, len(f.values))
	for name := range f.values {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return f.lines[a] - f.lines[b] })
	var errs []error
	for _, name := range names {
		if !known[name] {
			hint := ""
			if dashed := strings.ReplaceAll(name, "_", "-"); known[dashed] {
				hint = fmt.Sprintf(", did you mean %q?", dashed)
			}
			errs = append(errs, fmt.Errorf("%w %s, line %d: unknown member %q%s", errConfigFile, f.path, f.lines[name], name, hint))
		}
	}
	return errors.Join(errs...)
}

// checkValues reports every value that is none for its flag.
func (f *configFile) checkValues(flags []*kong.Flag) error {
	var errs []error
	for _, flag := range flags {
		if text, ok := f.values[flag.Name]; ok {
			errs = append(errs, f.try(flag, text))
		}
	}
	return errors.Join(errs...)
}

// try reads a value as the flag would.
func (f *configFile) try(flag *kong.Flag, text string) error {
	if err := flag.Parse(kong.ScanAsType(kong.FlagValueToken, text), flag.Target); err != nil {
		return fmt.Errorf("%w %s, line %d: %w", errConfigFile, f.path, f.lines[flag.Name], err)
	}
	return nil
}

// Resolve gives a flag its value from the file. What the command line or the
// environment says goes first.
func (f *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	text, ok := f.values[flag.Name]
	if !ok {
		return nil, nil
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	return text, f.try(flag, text)
}

// peerList is "n1=host:port,n2=host:port".
type peerList []cluster.Peer

// Decode reads the list from a flag.
func (l *peerList) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("peers", &text); err != nil {
		return err
	}
	*l = nil
	if strings.TrimSpace(text) == "" {
		return nil
	}
	for _, item := range strings.Split(text, ",") {
		id, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			return fmt.Errorf("%q is not id=host:port", item)
		}
		*l = append(*l, cluster.Peer{ID: id, Addr: addr})
	}
	return nil
}

// byteSize is a number of bytes, written plainly or with KiB, MiB or GiB.
type byteSize int64

// Decode reads the size from a flag.
func (s *byteSize) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("size", &text); err != nil {
		return err
	}
	n, err := parseByteSize(text)
	if err != nil {
		return err
	}
	*s = n
	return nil
}

func parseByteSize(text string) (byteSize, error) {
	digits, shift := text, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			digits, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a size: use bytes, or a number with KiB, MiB or GiB", text)
	}
	return byteSize(n) << shift, nil
}
