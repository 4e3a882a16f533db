package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// keyCmd holds the calls of the Key API, one command each.
type keyCmd struct {
	Claim    keyClaimCmd    `cmd:"" help:"Claim a key: the right to run its request."`
	Renew    keyRenewCmd    `cmd:"" help:"Make a claim's lease longer."`
	Complete keyCompleteCmd `cmd:"" help:"Record the response of a claimed key."`
	Release  keyReleaseCmd  `cmd:"" help:"Give a claim back: nothing was done."`
	Fail     keyFailCmd     `cmd:"" help:"Report that a claim's outcome cannot be known."`
	Resolve  keyResolveCmd  `cmd:"" help:"Settle a key whose outcome is unknown."`
	Get      keyGetCmd      `cmd:"" help:"Print the record of a key."`
	List     keyListCmd     `cmd:"" help:"Print a page of keys."`
	Forget   keyForgetCmd   `cmd:"" help:"Remove the record of a key."`
}

// oneKey is what every command on a single key has.
type oneKey struct {
	target
	Key string `arg:"" help:"The idempotency key."`
}

// inNamespace is what commands for operators have.
type inNamespace struct {
	// Namespace that is empty was given so, and is refused by the node: it may be
	// a variable that is not set.
	Namespace *string `help:"Namespace of the key, if not the caller's own; the gateway's log names its." placeholder:"NAME"`
}

func (n *inNamespace) query() url.Values {
	query := url.Values{}
	if n.Namespace != nil {
		query.Set("namespace", *n.Namespace)
	}
	return query
}

func (k *oneKey) path(call string) string {
	path := "/v1/keys/" + url.PathEscape(k.Key)
	if call != "" {
		path += "/" + call
	}
	return path
}

// fence is the claim that a write belongs to.
type fence struct {
	Fence uint64 `required:"" help:"Fence of the claim."`
}

type keyClaimCmd struct {
	oneKey
	Fingerprint string         `help:"What makes two requests the same request."`
	AttemptID   string         `name:"attempt-id" help:"Name of this attempt: repeated, it gets the same grant."`
	Lease       *time.Duration `help:"How long the claim stands without renewal."`
	TTL         *time.Duration `name:"ttl" help:"How long the finished key is kept."`
	OnLapse     string         `enum:",retry,block" default:"" help:"What a lapsed claim means for the next one: retry or block."`
}

// Run prints the grant, or the record if the key is completed.
func (c *keyClaimCmd) Run(s *session) error {
	body := members{}
	body.set("fingerprint", c.Fingerprint)
	body.set("attempt_id", c.AttemptID)
	body.setDuration("lease", c.Lease)
	body.setDuration("ttl", c.TTL)
	body.set("on_lapse", c.OnLapse)
	return c.show(s, http.MethodPost, c.path("claim"), nil, body)
}

type keyRenewCmd struct {
	oneKey
	fence
	Lease *time.Duration `help:"How long the claim stands from now."`
}

// Run prints the new end of the lease.
func (c *keyRenewCmd) Run(s *session) error {
	body := members{"fence": c.Fence}
	body.setDuration("lease", c.Lease)
	return c.show(s, http.MethodPost, c.path("renew"), nil, body)
}

type keyCompleteCmd struct {
	oneKey
	fence
	response
}

// Run prints the completed record.
func (c *keyCompleteCmd) Run(s *session) error {
	response, err := c.members(s)
	if err != nil {
		return err
	}
	return c.show(s, http.MethodPost, c.path("complete"), nil, members{"fence": c.Fence, "response": response})
}

type keyReleaseCmd struct {
	oneKey
	fence
}

// Run prints nothing when the claim was given back.
func (c *keyReleaseCmd) Run(s *session) error {
	return c.call(s.ctx, http.MethodPost, c.path("release"), nil, members{"fence": c.Fence}, nil)
}

type keyFailCmd struct {
	oneKey
	fence
}

// Run prints the record, now unknown.
func (c *keyFailCmd) Run(s *session) error {
	return c.show(s, http.MethodPost, c.path("fail"), nil, members{"fence": c.Fence})
}

type keyResolveCmd struct {
	oneKey
	inNamespace
	response
	Fence *uint64 `help:"Fence of the record, if only that one is to be settled."`
	Retry bool    `help:"Let the next claim run it again, instead of recording a response."`
}

// Run prints the completed record, or nothing with --retry.
func (c *keyResolveCmd) Run(s *session) error {
	body := members{}
	if c.Fence != nil {
		body["fence"] = *c.Fence
	}
	if c.Retry {
		if c.Status != 0 || len(c.Header) > 0 || c.Body != "" {
			return errors.New("--retry and a response exclude each other: give one")
		}
		body["retry"] = true
		return c.call(s.ctx, http.MethodPost, c.path("resolve"), c.query(), body, nil)
	}
	response, err := c.members(s)
	if err != nil {
		return fmt.Errorf("%w, or --retry", err)
	}
	body["response"] = response
	return c.show(s, http.MethodPost, c.path("resolve"), c.query(), body)
}

type keyGetCmd struct {
	oneKey
	inNamespace
	Local bool `help:"Answer from the asked node's own state, which may lag behind."`
}

// Run prints the record.
func (c *keyGetCmd) Run(s *session) error {
	query := c.query()
	if c.Local {
		query.Set("consistency", "local")
	}
	return c.show(s, http.MethodGet, c.path(""), query, nil)
}

type keyListCmd struct {
	target
	inNamespace
	State  string `enum:",claimed,completed,unknown" default:"" help:"Only keys in this state: claimed, completed or unknown."`
	Prefix string `help:"Only keys that begin so."`
	After  string `help:"Begin after this key: the next of the page before."`
	Limit  int    `default:"100" help:"Most keys of the page: 1 to 1000."`
}

// Run prints one page.
func (c *keyListCmd) Run(s *session) error {
	query := c.query()
	query.Set("limit", strconv.Itoa(c.Limit))
	for name, value := range map[string]string{"state": c.State, "prefix": c.Prefix, "after": c.After} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return c.show(s, http.MethodGet, "/v1/keys", query, nil)
}

type keyForgetCmd struct {
	oneKey
	inNamespace
	Fence *uint64 `help:"Fence of the record, if only that one is to be removed."`
	Force bool    `help:"Remove it even while a claim stands."`
}

// Run prints nothing when the record is gone.
func (c *keyForgetCmd) Run(s *session) error {
	query := c.query()
	if c.Fence != nil {
		query.Set("fence", strconv.FormatUint(*c.Fence, 10))
	}
	if c.Force {
		query.Set("force", "true")
	}
	return c.call(s.ctx, http.MethodDelete, c.path(""), query, nil, nil)
}

// response is the recorded answer, given by flags.
type response struct {
	Status int      `help:"Status of the response: 200 to 599."`
	Header []string `sep:"none" help:"Header of the response, repeatable." placeholder:"NAME:VALUE"`
	Body   string   `help:"Body of the response; @FILE reads it from a file, @- from standard input."`
}

func (r *response) members(s *session) (members, error) {
	if r.Status == 0 {
		return nil, errors.New("the response has no status: give --status")
	}
	out := members{"status": r.Status}
	if len(r.Header) > 0 {
		headers := map[string][]string{}
		for _, line := range r.Header {
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("--header %q is not NAME:VALUE", line)
			}
			headers[name] = append(headers[name], strings.TrimSpace(value))
		}
		out["headers"] = headers
	}
	body, err := r.body(s)
	if err != nil {
		return nil, err
	}
	if utf8.Valid(body) {
		out.set("body", string(body))
	} else {
		out["body_base64"] = base64.StdEncoding.EncodeToString(body)
	}
	return out, nil
}

func (r *response) body(s *session) ([]byte, error) {
	name, file := strings.CutPrefix(r.Body, "@")
	switch {
	case !file:
		return []byte(r.Body), nil
	case name == "-":
		body, err := io.ReadAll(s.stdin)
		if err != nil {
			return nil, fmt.Errorf("read body: %w", err)
		}
		return body, nil
	}
	body, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return body, nil
}

// members is a JSON object whose unset members are left out.
type members map[string]any

func (m members) set(name, value string) {
	if value != "" {
		m[name] = value
	}
}

func (m members) setDuration(name string, d *time.Duration) {
	if d != nil {
		m[name] = d.String()
	}
}
