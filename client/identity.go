package client

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// digest is a SHA-256 over strings of bytes, each behind its length: no two
// lists of them are hashed alike.
type digest struct{ hash.Hash }

func newDigest() digest { return digest{sha256.New()} }

func (d digest) add(s string) digest {
	_, _ = d.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
	_, _ = d.Write([]byte(s))
	return d
}

// AuthorizationNamespace is the namespace of a request where a middleware has
// no function of its own: that of the credential in Authorization, which so is
// a new one when the credential changes. A request with a Cookie alone is
// refused, since the cookie may say whose the key is, and one with neither is
// in a namespace that all such requests share.
func AuthorizationNamespace(r *http.Request) (string, error) {
	if lines := r.Header.Values("Authorization"); slices.ContainsFunc(lines, func(s string) bool { return s != "" }) {
		d := newDigest()
		for _, line := range lines {
			d.add(line)
		}
		return "authorization " + hex.EncodeToString(d.Sum(nil)), nil
	}
	if len(r.Header.Values("Cookie")) > 0 {
		return "", errors.New("the request has a Cookie and no Authorization")
	}
	return "default", nil
}

// clusterKey returns the key under which the cluster knows a key of a
// namespace: the hash of the namespace and the key itself, or where that would
// be too long, the key's hash too. Both forms have their own sign in the
// middle, so no two of namespace and key have the same.
func clusterKey(namespace, key string) string {
	name := hash43(namespace)
	if len(name)+1+len(key) <= maxKey {
		return name + "." + key
	}
	return name + "#" + hash43(key)
}

// hash43 returns the SHA-256 of s in 43 letters that a key may have.
func hash43(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// RequestFingerprint says what makes two requests the same request where a
// middleware has no function of its own: method, path, query in any order of
// its names, media type and the bytes of the body.
func RequestFingerprint(r *http.Request, body []byte) string {
	d := newDigest().add(r.Method).add(r.URL.EscapedPath())
	pairs := queryPairs(r.URL.RawQuery)
	d.add(string(binary.BigEndian.AppendUint64(nil, uint64(len(pairs)))))
	for _, pair := range pairs {
		d.add(pair[0]).add(pair[1])
	}
	d.add(mediaType(r.Header.Get("Content-Type"))).add(string(body))
	return hex.EncodeToString(d.Sum(nil))
}

// queryPairs returns the names and values of a query, unescaped where they can
// be, sorted by name. The values of one name keep their order: it may mean
// something.
func queryPairs(raw string) [][2]string {
	var pairs [][2]string
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		pairs = append(pairs, [2]string{unescaped(name), unescaped(value)})
	}
	slices.SortStableFunc(pairs, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	return pairs
}

func unescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

// mediaType returns the media type that s is, the same for all ways to write
// it. What is none stays as it is.
func mediaType(s string) string {
	name, parameters, err := mime.ParseMediaType(s)
	if err != nil {
		return s
	}
	if charset, ok := parameters["charset"]; ok {
		parameters["charset"] = strings.ToLower(charset)
	}
	if formatted := mime.FormatMediaType(name, parameters); formatted != "" {
		return formatted
	}
	return s
}
