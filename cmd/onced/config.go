package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// errConfigFile marks a mistake in the YAML file.
var errConfigFile = errors.New("config file")

// fileMistake is one thing that is wrong in the YAML file.
type fileMistake struct {
	path string
	line int // 0: of the file as a whole
	err  error
}

// Error says where it is and what.
func (m *fileMistake) Error() string { return "config file " + m.located() }

// Is makes it an errConfigFile.
func (m *fileMistake) Is(target error) bool { return target == errConfigFile }

// Unwrap returns what is wrong.
func (m *fileMistake) Unwrap() error { return m.err }

func (m *fileMistake) located() string {
	if m.line == 0 {
		return fmt.Sprintf("%s: %v", m.path, m.err)
	}
	return fmt.Sprintf("%s, line %d: %v", m.path, m.line, m.err)
}

// configFile is the YAML file: a map from flag name to the value that the flag
// would be given. A flag that takes several values takes a list too, and one of
// name=value pairs a map.
//
// It is read with yaml.v3 itself and not with kong-yaml, which silently drops
// members that it does not know and knows no line numbers.
type configFile struct {
	path     string
	flags    map[string]*kong.Flag // those that it may set, by name
	values   map[string]any        // string or []any of strings
	lines    map[string]int        // of all members
	routes   []fileRoute
	mistakes []error // *fileMistake all
}

// resolveConfigFile has the flags of the command that is run take their values
// from the file that --config names; without it, the file is nil. Every mistake
// in the file is reported.
func resolveConfigFile(ctx *kong.Context) (*configFile, error) {
	flags := ctx.Selected().Flags
	i := slices.IndexFunc(flags, func(f *kong.Flag) bool { return f.Name == "config" })
	path, _ := ctx.FlagValue(flags[i]).(string)
	if path == "" {
		return nil, nil
	}
	file, err := readConfigFile(path, flags)
	if err != nil {
		return nil, err
	}
	if len(file.mistakes) > 0 {
		return nil, errors.Join(file.mistakes...)
	}
	ctx.AddResolver(file)
	return file, nil
}

// readConfigFile reads a file that may set flags. The mistakes in it are in
// what is returned.
func readConfigFile(path string, flags []*kong.Flag) (*configFile, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %w: %w", errConfigFile, err)
	}
	return parseConfigFile(path, raw, flags), nil
}

func parseConfigFile(path string, raw []byte, flags []*kong.Flag) *configFile {
	f := &configFile{path: path, flags: map[string]*kong.Flag{}, values: map[string]any{}, lines: map[string]int{}}
	for _, flag := range flags {
		if flag.Name != "config" && flag.Name != "help" {
			f.flags[flag.Name] = flag
		}
	}
	if line, what := notText(raw); what != "" {
		f.wrong(line, "%s", what)
		return f
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); err != nil {
		f.syntax(raw, err)
		return f
	}
	if root := doc.Content[0]; root.Kind == yaml.MappingNode {
		f.take(root)
	} else if root.Kind != yaml.ScalarNode || root.Tag != "!!null" {
		f.wrong(root.Line, "it must be a map of flag names to values")
	}
	if err := decoder.Decode(&more); err == nil {
		f.wrong(more.Line, "it holds more than one document")
	} else {
		f.syntax(raw, err)
	}
	return f
}

func (f *configFile) wrong(line int, format string, args ...any) {
	f.mistakes = append(f.mistakes, &fileMistake{f.path, line, fmt.Errorf(format, args...)})
}

// notText returns the line of the first thing that no YAML file holds, which
// the parser would report without a line; "" if there is none.
func notText(raw []byte) (line int, what string) {
	const byteOrderMark = 0xfeff
	line = 1
	for at := 0; at < len(raw); {
		r, size := utf8.DecodeRune(raw[at:])
		switch {
		case r == utf8.RuneError && size == 1:
			return line, "it is not UTF-8"
		case r == '\n':
			line++
		case r < ' ' && r != '\t' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff, r == byteOrderMark && at > 0:
			return line, fmt.Sprintf("it holds the control character %U", r)
		}
		at += size
	}
	return 0, ""
}

// syntax takes down the parser's error, which ended the reading.
func (f *configFile) syntax(raw []byte, err error) {
	if errors.Is(err, io.EOF) {
		return
	}
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, what, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			text, line = what, n
			// For what its parser finds, and not its scanner, yaml.v3 counts
			// lines from 0; on the first line it names none.
			if strings.HasPrefix(text, "did not find expected ") {
				line = min(line+1, 1+bytes.Count(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n")))
			}
		}
	} else if rest, ok := strings.CutPrefix(text, "unknown anchor '"); ok {
		name, _, _ := strings.Cut(rest, "'")
		before, _, _ := bytes.Cut(raw, []byte("*"+name))
		line += bytes.Count(before, []byte("\n"))
	}
	f.wrong(line, "%s", text)
}

func (f *configFile) take(root *yaml.Node) {
	for i := 0; i+1 < len(root.Content); i += 2 {
		f.takeMember(root.Content[i], root.Content[i+1])
	}
}

func (f *configFile) takeMember(name, value *yaml.Node) {
	flag, known := f.flags[name.Value]
	_, twice := f.lines[name.Value]
	switch {
	case name.Kind != yaml.ScalarNode || name.Tag == "!!merge":
		f.wrong(name.Line, "a member is the name of a flag: there are no merge keys and no aliases")
		return
	case twice:
		f.wrong(name.Line, "%s is set twice", name.Value)
		return
	case !known && name.Value != routesMember:
		hint := ""
		if dashed := strings.ReplaceAll(name.Value, "_", "-"); f.flags[dashed] != nil {
			hint = fmt.Sprintf(", did you mean %q?", dashed)
		}
		f.wrong(name.Line, "unknown member %q%s", name.Value, hint)
	case !known:
		f.takeRoutes(value)
	default:
		f.takeValue(flag, name.Line, value)
	}
	f.lines[name.Value] = name.Line
}

// takeValue takes the value of a flag, if it is one.
func (f *configFile) takeValue(flag *kong.Flag, line int, value *yaml.Node) {
	given, at, err := flagValue(flag, value)
	if err != nil {
		f.wrong(at.Line, "%s: %w", flag.Name, err)
		return
	}
	if _, err := readFlag(flag, given); err != nil {
		f.wrong(line, "%w", err)
		return
	}
	f.values[flag.Name] = given
}

// flagValue is value as the flag takes it: a text, or a list of texts. With an
// error it returns the node that is wrong.
func flagValue(flag *kong.Flag, value *yaml.Node) (given any, at *yaml.Node, err error) {
	pairs := flag.Target.Type() == reflect.TypeFor[peerList]()
	switch several := flag.Target.Kind() == reflect.Slice; {
	case plain(value):
		return value.Value, value, nil
	case value.Kind == yaml.ScalarNode:
		return nil, value, errors.New("it has no value")
	case value.Kind == yaml.AliasNode:
		return nil, value, errors.New("aliases are not read: write the value out")
	case value.Kind == yaml.SequenceNode && several:
		items := []any{}
		var texts []string
		for _, item := range value.Content {
			if !plain(item) || pairs && strings.Contains(item.Value, ",") {
				return nil, item, errors.New("use a list of plain values")
			}
			items, texts = append(items, item.Value), append(texts, item.Value)
		}
		if pairs {
			return strings.Join(texts, ","), value, nil
		}
		return items, value, nil
	case value.Kind == yaml.MappingNode && pairs:
		var texts []string
		for i := 0; i+1 < len(value.Content); i += 2 {
			name, item := value.Content[i], value.Content[i+1]
			if !plain(name) || !plain(item) || strings.ContainsAny(name.Value+item.Value, ",=") {
				return nil, name, errors.New("use a map of names to plain values")
			}
			texts = append(texts, name.Value+"="+item.Value)
		}
		return strings.Join(texts, ","), value, nil
	case pairs:
		return nil, value, errors.New("use a plain value, a list or a map")
	case several:
		return nil, value, errors.New("use a plain value or a list")
	}
	return nil, value, errors.New("use a plain value")
}

// plain reports whether a node is a text, a number or the like. Nothing at all
// is none of them.
func plain(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag != "!!null" && n.Tag != "!!merge"
}

// readFlag reads a value as the flag would, which it leaves as it is.
func readFlag(flag *kong.Flag, given any) (reflect.Value, error) {
	value := reflect.New(flag.Target.Type()).Elem()
	if err := flag.Parse(kong.Scan().PushTyped(given, kong.FlagValueToken), value); err != nil {
		return value, err
	}
	if choices := flag.EnumSlice(); flag.Enum != "" && !slices.Contains(choices, fmt.Sprint(value)) {
		return value, fmt.Errorf("%s must be one of %s but got %q", flag.ShortSummary(), strings.Join(choices, ", "), given)
	}
	return value, nil
}

// Validate is part of kong.Resolver. The file has been looked at.
func (f *configFile) Validate(*kong.Application) error { return nil }

// Resolve gives a flag its value from the file. What the command line or the
// environment says goes first.
func (f *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	given, ok := f.values[flag.Name]
	if !ok || setByEnvironment(flag) != "" {
		return nil, nil
	}
	return given, nil
}

// setByEnvironment returns the variable that gives the flag its value, or "".
func setByEnvironment(flag *kong.Flag) string {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return name
		}
	}
	return ""
}
