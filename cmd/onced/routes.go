package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/onced/onced/gateway"
)

// routesMember is the member of the YAML file that lists the gateway's routes.
// It is no flag: a route does not fit on a command line.
const routesMember = "routes"

// fileRoute is a route of the YAML file.
type fileRoute struct {
	gateway.Route
	line  int
	given []givenMember
}

// givenMember is what the file says of a route.
type givenMember struct {
	name string
	line int
	// values are the texts of it; list: they were given as a list.
	values []string
	list   bool
}

// lineOf is where the file sets a field of the route; 0 if it does not.
func (r *fileRoute) lineOf(field string) int {
	for _, m := range r.given {
		if routeMembers[m.name].field == field {
			return m.line
		}
	}
	return 0
}

// takeRoutes reads the list of routes.
func (f *configFile) takeRoutes(list *yaml.Node) {
	if list.Kind != yaml.SequenceNode {
		f.wrong(list.Line, "routes: use a list of maps, each with a path")
		return
	}
	for _, item := range list.Content {
		if item.Kind == yaml.MappingNode {
			f.takeRoute(item)
		} else {
			f.wrong(item.Line, "routes: a route is a map with a path")
		}
	}
}

func (f *configFile) takeRoute(item *yaml.Node) {
	route := fileRoute{line: item.Line}
	seen := map[string]bool{}
	for i := 0; i+1 < len(item.Content); i += 2 {
		name, value := item.Content[i], item.Content[i+1]
		member, known := routeMembers[name.Value]
		switch {
		case !known || name.Kind != yaml.ScalarNode:
			f.wrong(name.Line, "routes: unknown member %q: they are %s", name.Value, strings.Join(routeMemberNames(), ", "))
		case seen[name.Value]:
			f.wrong(name.Line, "routes: %s is set twice", name.Value)
		default:
			before := route.Route
			if err := member.set(&route.Route, value); err != nil {
				f.wrong(value.Line, "routes: %s: %w", name.Value, err)
				route.Route = before
				break
			}
			values, _ := scalars(value) // it was set
			route.given = append(route.given, givenMember{name.Value, name.Line, values, value.Kind == yaml.SequenceNode})
		}
		seen[name.Value] = true
	}
	if !seen["path"] {
		f.wrong(item.Line, "routes: a route has no path")
	}
	if route.Path != "" { // else there is no more to say of it
		f.routes = append(f.routes, route)
	}
}

// routeMember is one thing that a route may say.
type routeMember struct {
	field string // of gateway.Route
	set   func(*gateway.Route, *yaml.Node) error
}

// routeMembers are what a route may say, by the name that it has in the file.
var routeMembers = map[string]routeMember{
	"path":         {"Path", text(func(r *gateway.Route) *string { return &r.Path })},
	"methods":      {"Methods", texts(func(r *gateway.Route) *[]string { return &r.Methods })},
	"key":          {"Key", text(func(r *gateway.Route) *gateway.KeyPolicy { return &r.Key })},
	"key-member":   {"KeyMember", text(func(r *gateway.Route) *string { return &r.KeyMember })},
	"on-lapse":     {"OnLapse", text(func(r *gateway.Route) *string { return &r.OnLapse })},
	"ttl":          {"TTL", duration(func(r *gateway.Route) *time.Duration { return &r.TTL })},
	"lease":        {"Lease", duration(func(r *gateway.Route) *time.Duration { return &r.Lease })},
	"timeout":      {"Timeout", duration(func(r *gateway.Route) *time.Duration { return &r.Timeout })},
	"max-request":  {"MaxRequest", size(func(r *gateway.Route) *int64 { return &r.MaxRequest })},
	"max-response": {"MaxResponse", size(func(r *gateway.Route) *int64 { return &r.MaxResponse })},
	"keep-headers": {"KeepHeaders", texts(func(r *gateway.Route) *[]string { return &r.KeepHeaders })},
	"ignore":       {"Ignore", texts(func(r *gateway.Route) *[]string { return &r.Ignore })},
	"canonical":    {"Canonical", truth(func(r *gateway.Route) **bool { return &r.Canonical })},
	"namespace":    {"Namespace", text(func(r *gateway.Route) *string { return &r.Namespace })},
	"not-recorded": {"NotRecorded", numbers(func(r *gateway.Route) *[]int { return &r.NotRecorded })},
}

func routeMemberNames() []string { return slices.Sorted(maps.Keys(routeMembers)) }

func scalar(value *yaml.Node) (string, error) {
	if !plain(value) || value.Value == "" {
		return "", errors.New("use a plain value")
	}
	return value.Value, nil
}

func text[T ~string](field func(*gateway.Route) *T) func(*gateway.Route, *yaml.Node) error {
	return func(r *gateway.Route, value *yaml.Node) error {
		s, err := scalar(value)
		*field(r) = T(s)
		return err
	}
}

// scalars are the values of a list, or the one value that stands for a list.
func scalars(value *yaml.Node) ([]string, error) {
	items := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		items = value.Content
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, err := scalar(item)
		if err != nil {
			return nil, errors.New("use a list of plain values")
		}
		list = append(list, s)
	}
	return list, nil
}

func texts(field func(*gateway.Route) *[]string) func(*gateway.Route, *yaml.Node) error {
	return func(r *gateway.Route, value *yaml.Node) (err error) {
		*field(r), err = scalars(value)
		return err
	}
}

func numbers(field func(*gateway.Route) *[]int) func(*gateway.Route, *yaml.Node) error {
	return func(r *gateway.Route, value *yaml.Node) error {
		list, err := scalars(value)
		for _, s := range list {
			n, bad := strconv.Atoi(s)
			if bad != nil {
				return fmt.Errorf("%q is not a whole number", s)
			}
			*field(r) = append(*field(r), n)
		}
		return err
	}
}

func duration(field func(*gateway.Route) *time.Duration) func(*gateway.Route, *yaml.Node) error {
	return func(r *gateway.Route, value *yaml.Node) error {
		s, err := scalar(value)
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a duration such as 30s", s)
		}
		*field(r) = d
		return nil
	}
}

func size(field func(*gateway.Route) *int64) func(*gateway.Route, *yaml.Node) error {
	return func(r *gateway.Route, value *yaml.Node) error {
		s, err := scalar(value)
		if err != nil {
			return err
		}
		n, err := parseByteSize(s)
		if err == nil && n == 0 {
			err = errors.New("use at least 1 byte")
		}
		*field(r) = int64(n)
		return err
	}
}

func truth(field func(*gateway.Route) **bool) func(*gateway.Route, *yaml.Node) error {
	return func(r *gateway.Route, value *yaml.Node) error {
		var b bool
		if err := value.Decode(&b); err != nil || !plain(value) {
			return errors.New("use true or false")
		}
		*field(r) = &b
		return nil
	}
}
