package api

import (
	"net/url"

	"github.com/onced/onced/wire"
)

// pathKey returns the key of a percent-encoded path segment.
func pathKey(segment string) (string, error) {
	key, err := url.PathUnescape(segment)
	if err != nil {
		return "", wire.KeyInvalid.With("the key in the path is not percent-encoded")
	}
	return key, wire.CheckKey(key)
}
