package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/net/http/httpguts"
)

// Mistake is one thing that is wrong with a Route or with Settings.
type Mistake struct {
	// Field is the one of Route or Settings that is wrong.
	Field string
	Err   error
}

// Error is the text of Err, which begins with the name of the setting.
func (m *Mistake) Error() string { return m.Err.Error() }

// Unwrap returns Err.
func (m *Mistake) Unwrap() error { return m.Err }

// Limits of Settings.
const (
	minTTL, maxTTL     = time.Second, 720 * time.Hour
	minLease, maxLease = time.Second, time.Hour
	maxTimeout         = time.Hour
	maxBody            = 16 << 20
)

type mistakes []*Mistake

func (all *mistakes) add(bad bool, field, format string, args ...any) {
	if bad {
		*all = append(*all, &Mistake{field, fmt.Errorf(format, args...)})
	}
}

// Mistakes is everything that is wrong with the settings.
func (s Settings) Mistakes() []*Mistake {
	var all mistakes
	all.add(s.Key != KeyOptional && s.Key != KeyRequired && s.Key != KeyOff, "Key", "key %q: use optional, required or off", s.Key)
	all.add(s.OnLapse != "block" && s.OnLapse != "retry", "OnLapse", "on-lapse %q: use block or retry", s.OnLapse)
	all.add(s.TTL < minTTL || s.TTL > maxTTL, "TTL", "ttl %v: use 1s to 720h", s.TTL)
	all.add(s.Lease < minLease || s.Lease > maxLease, "Lease", "lease %v: use 1s to 1h", s.Lease)
	all.add(s.Timeout < time.Millisecond || s.Timeout > maxTimeout, "Timeout", "timeout %v: use 1ms to 1h", s.Timeout)
	all.add(s.MaxRequest < 1 || s.MaxRequest > maxBody, "MaxRequest", "max-request %d: use 1 byte to 16 MiB", s.MaxRequest)
	all.add(s.MaxResponse < 1 || s.MaxResponse > maxBody, "MaxResponse", "max-response %d: use 1 byte to 16 MiB", s.MaxResponse)
	for _, name := range s.KeepHeaders {
		all.add(!httpguts.ValidHeaderFieldName(name), "KeepHeaders", "keep-headers: %q is no name of a header", name)
		name = http.CanonicalHeaderKey(name)
		all.add(neverKept(name), "KeepHeaders", "keep-headers: %s is never kept: it is a credential, or true of one exchange only", name)
	}
	for _, path := range s.Ignore {
		all.add(emptyName(path), "Ignore", "ignore: member %q: a name in it is empty", path)
	}
	all.add(s.KeyMember != "" && emptyName(s.KeyMember), "KeyMember", "key-member: member %q: a name in it is empty", s.KeyMember)
	for _, status := range s.NotRecorded {
		all.add(status < 400 || status > 599, "NotRecorded", "not-recorded %d: use statuses from 400 to 599", status)
	}
	if _, err := parseNamespace(s.Namespace); err != nil {
		all = append(all, &Mistake{"Namespace", err})
	}
	return all
}

func emptyName(path string) bool { return slices.Contains(strings.Split(path, "."), "") }

// Mistakes is everything that is wrong with the route, whose settings are
// completed by those of d.
func (r Route) Mistakes(d Settings) []*Mistake {
	all := mistakes(r.withDefaults(d).Mistakes())
	switch _, err := r.pattern(); {
	case !strings.HasPrefix(r.Path, "/"):
		all.add(true, "Path", "path %q: begin it with /", r.Path)
	case err != nil:
		all.add(true, "Path", "path %q: %w", r.Path, err)
	default:
		c := neverSent(r.Path)
		all.add(c != "", "Path", "path %q: %q is never in a path as it is sent: percent-encode it", r.Path, c)
	}
	for _, m := range r.Methods {
		all.add(!slices.Contains(coverable, m), "Methods", "method %q: use some of %s", m, strings.Join(coverable, ", "))
	}
	return all
}

// pattern returns what the router compiles the path to: routes whose variables
// have other names have the same one.
func (r Route) pattern() (pattern string, err error) {
	// Mux panics on a capturing group.
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%v", cause)
		}
	}()
	route := mux.NewRouter().NewRoute().Path(r.Path)
	if err := route.GetError(); err != nil {
		return "", err
	}
	return route.GetPathRegexp()
}

// neverSent returns the first character outside the variables of a pattern that
// the path of a request cannot hold, or "".
func neverSent(path string) string {
	depth := 0
	for _, c := range path {
		switch {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case depth == 0 && (c <= ' ' || c >= 0x7f || c == '?' || c == '#'):
			return string(c)
		}
	}
	return ""
}

// HiddenBy reports whether no request gets past the routes before to r, because
// they have its path and all its methods. It returns the place of the last of
// those that take part.
func (r Route) HiddenBy(before []Route) (place int, hidden bool) {
	pattern, err := r.pattern()
	if err != nil {
		return 0, false
	}
	left := slices.Clone(r.methods())
	for i, other := range before {
		if p, err := other.pattern(); err != nil || p != pattern {
			continue
		}
		taken := func(m string) bool { return slices.Contains(other.methods(), m) }
		if slices.ContainsFunc(left, taken) {
			place = i
		}
		left = slices.DeleteFunc(left, taken)
	}
	return place, len(left) == 0
}
