package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/onced/onced/wire"
)

// defaultNamespace is that of callers who say nothing of themselves, and the
// one of a shared route.
const defaultNamespace = "default"

// maxName bounds the name of a header or cookie, which is part of the namespace.
const maxName = 128

// namespace is where the namespace of a request is taken from.
type namespace struct {
	source string // authorization, header, cookie, host or shared
	name   string // of the header or cookie
}

func parseNamespace(s string) (namespace, error) {
	source, name, named := strings.Cut(s, ":")
	n := namespace{source, name}
	switch source {
	case "authorization", "host", "shared":
		if !named {
			return n, nil
		}
	case "header", "cookie":
		if httpguts.ValidHeaderFieldName(name) && len(name) <= maxName {
			return n, nil
		}
	}
	return namespace{}, fmt.Errorf("namespace %q: use authorization, header:NAME, cookie:NAME, host or shared", s)
}

// of returns the namespace of r. What it is taken from may be a credential, so
// it is hashed.
func (n namespace) of(r *http.Request) (string, error) {
	switch n.source {
	case "shared":
		return defaultNamespace, nil
	case "host":
		if r.Host == "" {
			return "", wire.NamespaceRequired.With("send the header Host: it says whose the key is")
		}
		return n.hashed(strings.ToLower(r.Host)), nil
	case "header":
		if lines := r.Header.Values(n.name); len(lines) == 1 && lines[0] != "" {
			return n.hashed(lines[0]), nil
		}
		return "", wire.NamespaceRequired.With("send the header " + n.name + ", once: it says whose the key is")
	case "cookie":
		if c, err := r.Cookie(n.name); err == nil && c.Value != "" {
			return n.hashed(c.Value), nil
		}
		return "", wire.NamespaceRequired.With("send the cookie " + n.name + ": it says whose the key is")
	}
	switch lines := r.Header.Values("Authorization"); {
	case len(lines) > 1:
		return "", wire.NamespaceRequired.With("Authorization is sent more than once: send one")
	case len(lines) == 1 && lines[0] != "":
		return n.hashed(lines[0]), nil
	case len(r.Header.Values("Cookie")) > 0:
		// Some cookie says who this is, and nothing says which.
		return "", wire.NamespaceRequired.With("a keyed request with cookies and no Authorization may be anyone's: the operator has to say where its namespace is taken from")
	}
	return defaultNamespace, nil
}

// hashed never yields the default namespace, nor one of another source.
func (n namespace) hashed(value string) string {
	sum := sha256.Sum256([]byte(value))
	source := n.source
	if n.name != "" {
		source += ":" + strings.ToLower(n.name)
	}
	return source + ":" + hex.EncodeToString(sum[:16])
}
