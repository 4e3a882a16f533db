package main

import (
	"errors"
	"fmt"
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

// takeRoutes reads the list of routes, and reports every mistake in it.
func (f *configFile) takeRoutes(list *yaml.Node) (routes []fileRoute, err error) {
	if list.Kind != yaml.SequenceNode {
		return nil, f.wrong(list, "routes: use a list of maps, each with a path")
	}
	var errs []error
	for _, item := range list.Content {
		if item.Kind != yaml.MappingNode {
			errs = append(errs, f.wrong(item, "routes: a route is a map with a path"))
			continue
		}
		route := fileRoute{line: item.Line}
		errs = append(errs, f.takeRoute(&route, item)...)
		routes = append(routes, route)
	}
	return routes, errors.Join(errs...)
}

func (f *configFile) takeRoute(route *fileRoute, item *yaml.Node) (errs []error) {
	seen := map[string]bool{}
	for i := 0; i < len(item.Content); i += 2 {
		name, value := item.Content[i], item.Content[i+1]
		set, known := routeMembers[name.Value]
		switch {
		case !known:
			errs = append(errs, f.wrong(name, "routes: unknown member %q: they are %s", name.Value, strings.Join(routeMemberNames(), ", ")))
		case seen[name.Value]:
			errs = append(errs, f.wrong(name, "routes: %s is set twice", name.Value))
		default:
			if err := set(&route.Route, value); err != nil {
				errs = append(errs, f.wrong(value, "routes: %s: %v", name.Value, err))
			}
		}
		seen[name.Value] = true
	}
	if !seen["path"] {
		errs = append(errs, f.wrong(item, "routes: a route has no path"))
	}
	return errs
}

// routeMembers are what a route may say, by the name that it has in the file.
var routeMembers = map[string]func(*gateway.Route, *yaml.Node) error{
	"path":         text(func(r *gateway.Route) *string { return &r.Path }),
	"methods":      texts(func(r *gateway.Route) *[]string { return &r.Methods }),
	"key":          text(func(r *gateway.Route) *gateway.KeyPolicy { return &r.Key }),
	"key-member":   text(func(r *gateway.Route) *string { return &r.KeyMember }),
	"on-lapse":     text(func(r *gateway.Route) *string { return &r.OnLapse }),
	"ttl":          duration(func(r *gateway.Route) *time.Duration { return &r.TTL }),
	"lease":        duration(func(r *gateway.Route) *time.Duration { return &r.Lease }),
	"timeout":      duration(func(r *gateway.Route) *time.Duration { return &r.Timeout }),
	"max-request":  size(func(r *gateway.Route) *int64 { return &r.MaxRequest }),
	"max-response": size(func(r *gateway.Route) *int64 { return &r.MaxResponse }),
	"keep-headers": texts(func(r *gateway.Route) *[]string { return &r.KeepHeaders }),
	"ignore":       texts(func(r *gateway.Route) *[]string { return &r.Ignore }),
	"canonical":    truth(func(r *gateway.Route) **bool { return &r.Canonical }),
	"namespace":    text(func(r *gateway.Route) *string { return &r.Namespace }),
	"not-recorded": numbers(func(r *gateway.Route) *[]int { return &r.NotRecorded }),
}

func routeMemberNames() []string {
	names := make([]string, 0, len(routeMembers))
	for name := range routeMembers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func scalar(value *yaml.Node) (string, error) {
	if value.Kind != yaml.ScalarNode || value.Tag == "!!null" || value.Value == "" {
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
			n, err := strconv.Atoi(s)
			if err != nil {
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
		if err := value.Decode(&b); err != nil {
			return errors.New("use true or false")
		}
		*field(r) = &b
		return nil
	}
}
