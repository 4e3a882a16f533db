package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// mistake is one thing that is wrong with what serve is started with. Its text
// names the flag.
type mistake struct {
	flags []string // those whose values are wrong, or do not go together
	line  int      // in the YAML file, for what no flag can say
	err   error
}

type mistakes []*mistake

// add takes down a mistake in the value of a flag, if it is one. It returns the
// mistake, or one that nobody sees.
func (all *mistakes) add(bad bool, flag, format string, args ...any) *mistake {
	m := &mistake{flags: []string{flag}, err: fmt.Errorf(format, args...)}
	if bad {
		*all = append(*all, m)
	}
	return m
}

// and adds a flag, whose value does not go with that of the first.
func (m *mistake) and(flag string) { m.flags = append(m.flags, flag) }

// check takes down err, if it is not nil.
func (all *mistakes) check(flag string, err error) {
	all.add(err != nil, flag, "%w", err)
}

// located returns the mistake as an error, which names the line if a value came
// from the file.
func (c *serveCmd) located(m *mistake) error {
	if c.file == nil {
		return m.err
	}
	line := m.line
	for _, flag := range m.flags {
		if line == 0 {
			line = c.origins[flag].line
		}
	}
	if line == 0 {
		return m.err
	}
	return &fileMistake{c.file.path, line, m.err}
}

// origin is where the value of a flag came from.
type origin struct {
	variable string // of the environment
	line     int    // of the file
	flag     bool   // the command line; none of all: the default
}

// originsOf says where the flags of the command have their values from.
func originsOf(ctx *kong.Context, file *configFile) map[string]origin {
	origins := map[string]origin{}
	if file != nil {
		for name, line := range file.lines {
			origins[name] = origin{line: line}
		}
	}
	for _, flag := range ctx.Selected().Flags {
		if variable := setByEnvironment(flag); variable != "" {
			origins[flag.Name] = origin{variable: variable}
		}
	}
	for _, p := range ctx.Path {
		if p.Flag != nil && !p.Resolved {
			origins[p.Flag.Name] = origin{flag: true}
		}
	}
	return origins
}
