package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	defaultTimeout        = 30 * time.Second
	defaultAttemptTimeout = 5 * time.Second
	defaultMaxAnswer      = 32 << 20
)

// Config is what a client is made of. The zero value of a field takes the
// default that is named with it.
type Config struct {
	// Nodes are the base URLs, http or https, of the cluster's nodes. At least
	// one; each may have a path that the routes are below of.
	Nodes []string
	// Token is sent as a bearer token, if it is set.
	Token string
	// HTTPClient sends the requests. Its CheckRedirect is not used: a redirect
	// is an error. Default: one of its own, that uses no proxy and keeps
	// connections to each node.
	HTTPClient *http.Client
	// Timeout bounds a call whose context has no deadline, all its tries
	// counted. Default 30 s.
	Timeout time.Duration
	// AttemptTimeout is how long one node may take to answer before another is
	// asked. Default 5 s.
	AttemptTimeout time.Duration
	// MaxAnswer is how many bytes of an answer are read; a longer one is an
	// error. Default 32 MiB.
	MaxAnswer int64
}

// Client calls the Key API of a cluster. It may be used by many goroutines at
// once. It holds nothing that must be closed but idle connections.
type Client struct {
	// Set by New, never changed after.
	nodes          []*node
	token          string
	http           *http.Client
	timeout        time.Duration
	attemptTimeout time.Duration
	maxAnswer      int64
	now            func() time.Time
	newID          func() string
	jitter         func() float64 // in [0, 1)

	next atomic.Uint64 // where the next call begins
}

// node is one node of the cluster.
type node struct {
	base string // without a slash at its end
	// avoid is when the node, which could not be reached, is again as good as
	// the others, in Unix nanoseconds.
	avoid atomic.Int64
}

// New returns a client, or an error that names everything that is wrong with
// the configuration. It connects to nothing.
func New(cfg Config) (*Client, error) {
	c := &Client{
		token:          cfg.Token,
		timeout:        orDefault(cfg.Timeout, defaultTimeout),
		attemptTimeout: orDefault(cfg.AttemptTimeout, defaultAttemptTimeout),
		maxAnswer:      orDefault(cfg.MaxAnswer, defaultMaxAnswer),
		now:            time.Now,
		newID:          randomID,
		jitter:         mathrand.Float64,
	}
	var errs []error
	if len(cfg.Nodes) == 0 {
		errs = append(errs, errors.New("there are no nodes: give the URL of at least one"))
	}
	for _, raw := range cfg.Nodes {
		base, err := parseNode(raw)
		errs = append(errs, err)
		c.nodes = append(c.nodes, &node{base: base})
	}
	if strings.ContainsAny(cfg.Token, "\r\n\x00") {
		errs = append(errs, errors.New("the token has a byte that no header may have"))
	}
	if cfg.Timeout < 0 || cfg.AttemptTimeout < 0 || cfg.MaxAnswer < 0 {
		errs = append(errs, errors.New("timeouts and limits are not negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("client configuration: %w", err)
	}
	c.http = httpClient(cfg.HTTPClient)
	return c, nil
}

func orDefault[T ~int | ~int64](value, standard T) T {
	if value == 0 {
		return standard
	}
	return value
}

func parseNode(raw string) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "", fmt.Errorf("node %q is not a URL: use http://host:port", raw)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return "", fmt.Errorf("node %q has no scheme or no host: use http://host:port", raw)
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return "", fmt.Errorf("node %q has more than scheme, host and path", u.Redacted())
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// httpClient returns a client that follows no redirect: a write that is sent
// on to where we did not send it is nothing to rely on.
func httpClient(given *http.Client) *http.Client {
	if given == nil {
		given = &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
			ForceAttemptHTTP2:   true,
		}}
	}
	c := *given
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// CloseIdleConnections closes the connections that no call is using. The
// client can still be used.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// randomID returns 128 random bits in hex.
func randomID() string {
	var b [16]byte
	_, _ = io.ReadFull(rand.Reader, b[:]) // it never fails: it ends the process instead
	return hex.EncodeToString(b[:])
}

// bounded gives ctx the client's own time limit, and extra, unless it has a
// deadline.
func (c *Client) bounded(ctx context.Context, extra time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.timeout+extra)
}
