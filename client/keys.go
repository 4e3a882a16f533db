package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// OnLapse is what the next claim finds when a lease has ended without a
// response.
type OnLapse string

// The policies of a claim.
const (
	// Retry lets the next claim with the same fingerprint run.
	Retry OnLapse = "retry"
	// Block answers ErrOutcomeUnknown until the key is resolved, or its record
	// ends.
	Block OnLapse = "block"
)

// ClaimOptions say what is claimed, and how. All are optional.
type ClaimOptions struct {
	// Fingerprint is what makes two requests the same request, up to 255
	// bytes of UTF-8.
	Fingerprint string
	// AttemptID names this attempt, up to 255 bytes: the same one gets the
	// same grant while the lease stands. Default: a random one for each call.
	AttemptID string
	// Lease is how long the claim stands without renewal, 100 ms to 1 h.
	// Default: the cluster's, 30 s.
	Lease time.Duration
	// TTL is how long the record is kept once it is completed, 1 s to 720 h.
	// Default: the cluster's, 24 h.
	TTL time.Duration
	// OnLapse is the policy of the claim. Default Retry.
	OnLapse OnLapse
	// Wait is how long to wait for an attempt in flight, until a second before ctx
	// ends at the latest, or a quarter of its time; then the claim is granted, or answered with the record, or
	// ErrInProgress.
	Wait time.Duration
}

// Claim is the right to run a key's request.
type Claim struct {
	Key string
	// Fence is needed for every write on the record. It grows with each claim
	// granted: give it to what the request changes, and refuse lower ones
	// there.
	Fence uint64
	// Attempt is 1, and one more for each takeover.
	Attempt        int
	AttemptID      string
	LeaseExpiresAt time.Time
	// Repeated: the grant of an earlier claim with the same attempt id.
	Repeated bool
}

// ClaimResult is either a claim or the record of a request that ran before.
type ClaimResult struct {
	// Claim is set if it was granted.
	Claim *Claim
	// Record, which is completed, is set if it was not.
	Record *Record
	// Remaining is how long the record is still kept.
	Remaining time.Duration
	// Waited: a node has waited for an attempt in flight.
	Waited bool
}

// maxLeg is how long one request asks a node to wait, at most.
const maxLeg = 30 * time.Second

// answerTime is how long before ctx ends a wait does, or a quarter of what there is.
const answerTime = time.Second

// reclaimPause is the longest pause between two waits.
const reclaimPause = 250 * time.Millisecond

// Claim claims a key. It is safe to call again after an Ambiguous error with
// the same AttemptID. The errors are ErrInProgress, which is not tried again
// unless there is a Wait, ErrKeyReused, ErrOutcomeUnknown, ErrUnavailable and
// others of this package.
func (c *Client) Claim(ctx context.Context, key string, o ClaimOptions) (*ClaimResult, error) {
	if o.AttemptID == "" {
		o.AttemptID = c.newID()
	}
	body, err := claimBody(&o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := c.bounded(ctx, max(0, o.Wait))
	defer cancel()
	until := c.now().Add(o.Wait)
	if deadline, ok := ctx.Deadline(); ok {
		// The last claim is to be answered before ctx ends: else nobody knows what became of it.
		last := deadline.Add(-min(answerTime, deadline.Sub(c.now())/4))
		if last.Before(until) {
			until = last
		}
	}
	for legs := 1; ; legs++ {
		left := until.Sub(c.now())
		leg := max(0, min(left, maxLeg)).Truncate(time.Second)
		result, err := c.claimOnce(ctx, key, &o, body, leg)
		if !errors.Is(err, ErrInProgress) || o.Wait <= 0 || !c.now().Before(until) {
			return result, err
		}
		if c.pause(ctx, legs, reclaimPause, time.Time{}) != nil {
			return nil, err
		}
	}
}

func claimBody(o *ClaimOptions) ([]byte, error) {
	return encodeCall(struct {
		Fingerprint string  `json:"fingerprint,omitempty"`
		AttemptID   string  `json:"attempt_id"`
		Lease       string  `json:"lease,omitempty"`
		TTL         string  `json:"ttl,omitempty"`
		OnLapse     OnLapse `json:"on_lapse,omitempty"`
	}{o.Fingerprint, o.AttemptID, duration(o.Lease), duration(o.TTL), o.OnLapse})
}

func (c *Client) claimOnce(ctx context.Context, key string, o *ClaimOptions, body []byte, wait time.Duration) (*ClaimResult, error) {
	result := new(ClaimResult)
	err := c.onKey(ctx, http.MethodPost, key, "claim", body, wait, func(a *answer) (err error) {
		result.Waited = a.header.Get("Preference-Applied") != ""
		if a.status == http.StatusCreated {
			result.Claim, err = parseGrant(a.body)
			return err
		}
		if err := a.wants(http.StatusOK); err != nil {
			return err
		}
		result.Remaining = parseSeconds(a.header.Get("Idempotency-TTL"))
		result.Record, err = parseRecord(a.body)
		if err == nil && result.Record.State != Completed {
			err = errors.New("it is a record that is not completed")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if result.Claim != nil {
		result.Claim.Key, result.Claim.AttemptID = key, o.AttemptID
	}
	return result, nil
}

// Renew makes the lease of a claim end lease from now, or as the cluster's
// default says if lease is 0, and returns when that is. ErrStaleFence: the
// lease has ended already.
func (c *Client) Renew(ctx context.Context, key string, fence uint64, lease time.Duration) (time.Time, error) {
	var until time.Time
	err := c.write(ctx, key, "renew", fenceBody{Fence: fence, Lease: duration(lease)}, func(a *answer) error {
		var body struct {
			LeaseExpiresAt time.Time `json:"lease_expires_at"`
		}
		if err := a.wants(http.StatusOK); err != nil {
			return err
		}
		if err := json.Unmarshal(a.body, &body); err != nil {
			return fmt.Errorf("decode lease: %w", err)
		}
		until = body.LeaseExpiresAt
		return nil
	})
	return until, err
}

// Complete records the response, and returns the record. It is accepted as long
// as the fence is current, also after the lease has ended; sent again with the
// same response, it is answered as the first time. ErrStaleFence: it was not
// recorded, unless the error is Ambiguous: then a try before may have been, and
// the record have ended since.
func (c *Client) Complete(ctx context.Context, key string, fence uint64, response *Response) (*Record, error) {
	encoded, err := response.encode()
	if err != nil {
		return nil, refused(err)
	}
	return c.writeRecord(ctx, key, "complete", fenceBody{Fence: fence, Response: encoded})
}

// Release gives a claim back: nothing was done, and the next claim is granted.
func (c *Client) Release(ctx context.Context, key string, fence uint64) error {
	return c.write(ctx, key, "release", fenceBody{Fence: fence}, func(a *answer) error { return a.wants(http.StatusNoContent) })
}

// Fail reports that the outcome cannot be known, and returns the record, which
// is Unknown from now on.
func (c *Client) Fail(ctx context.Context, key string, fence uint64) (*Record, error) {
	return c.writeRecord(ctx, key, "fail", fenceBody{Fence: fence})
}

// Resolution settles a key whose outcome is unknown.
type Resolution struct {
	// Fence is that of the record that is settled. Default: of the one that is
	// there now.
	Fence uint64
	// Response is what the key's request is answered with from now on. Nil: it
	// did not run, and the next claim shall.
	Response *Response
}

// Resolve settles a key whose outcome is Unknown (operator). It returns the
// record, or nil where the next claim runs.
func (c *Client) Resolve(ctx context.Context, key string, r Resolution) (*Record, error) {
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	fence, err := c.fenceOf(ctx, key, r.Fence)
	if err != nil {
		return nil, err
	}
	if r.Response != nil {
		encoded, err := r.Response.encode()
		if err != nil {
			return nil, refused(err)
		}
		return c.writeRecord(ctx, key, "resolve", fenceBody{Fence: fence, Response: encoded})
	}
	err = c.write(ctx, key, "resolve", fenceBody{Fence: fence, Retry: true}, func(a *answer) error { return a.wants(http.StatusNoContent) })
	return nil, gone(err)
}

// Consistency is what a read sees.
type Consistency string

// The kinds of reads.
const (
	// Linearizable sees everything that was committed before.
	Linearizable Consistency = "linearizable"
	// Local is what the asked node has, without a word with the others.
	Local Consistency = "local"
)

// Get returns the record of a key; "" stands for Linearizable. ErrKeyUnknown:
// there is none.
func (c *Client) Get(ctx context.Context, key string, consistency Consistency) (*Record, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	q := &request{method: http.MethodGet, path: keyPath(key, "")}
	if consistency != "" {
		q.query = url.Values{"consistency": {string(consistency)}}
	}
	var record *Record
	err := c.do(ctx, q, func(a *answer) (err error) {
		record, err = parseRecord(a.body)
		return err
	})
	return record, err
}

// ListOptions say which records are listed. All are optional.
type ListOptions struct {
	State  State
	Prefix string // what the keys begin with
	Limit  int    // 1 to 1000, default 100
	After  string // Page.Next of the page before
}

// Page is a page of records, in the order of their keys.
type Page struct {
	Records []*Record
	// Next is ListOptions.After of the next page; "" at the end.
	Next string
}

// List returns a page of records.
func (c *Client) List(ctx context.Context, o ListOptions) (*Page, error) {
	q := &request{method: http.MethodGet, path: "/v1/keys", query: url.Values{}}
	set := func(name, value string) {
		if value != "" {
			q.query.Set(name, value)
		}
	}
	set("state", string(o.State))
	set("prefix", o.Prefix)
	set("after", o.After)
	if o.Limit != 0 {
		set("limit", strconv.Itoa(o.Limit))
	}
	var page *Page
	err := c.do(ctx, q, func(a *answer) (err error) {
		page, err = parsePage(a.body)
		return err
	})
	return page, err
}

// ForgetOptions say which record is removed.
type ForgetOptions struct {
	// Fence is that of the record. Default: of the one that is there now.
	Fence uint64
	// Force removes a record that is claimed, too. Its owner's fence is stale
	// from then on.
	Force bool
}

// Forget removes the record of a key (operator). The next claim runs.
func (c *Client) Forget(ctx context.Context, key string, o ForgetOptions) error {
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	fence, err := c.fenceOf(ctx, key, o.Fence)
	if err != nil {
		return err
	}
	q := &request{method: http.MethodDelete, path: keyPath(key, ""), query: url.Values{"fence": {strconv.FormatUint(fence, 10)}}}
	if o.Force {
		q.query.Set("force", "true")
	}
	return gone(c.do(ctx, q, func(a *answer) error { return a.wants(http.StatusNoContent) }))
}

// fenceOf returns fence, or that of the record as it is now: with it a request
// that is sent again cannot act on a later record.
func (c *Client) fenceOf(ctx context.Context, key string, fence uint64) (uint64, error) {
	if err := checkKey(key); err != nil || fence != 0 {
		return fence, err
	}
	record, err := c.Get(ctx, key, Linearizable)
	if err != nil {
		return 0, err
	}
	return record.Fence, nil
}

// gone makes nothing of an error that says that the record is no longer there,
// if an earlier try of the removal may have done that.
func gone(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Ambiguous && (e.Is(ErrKeyUnknown) || e.Is(ErrStaleFence)) {
		return nil
	}
	return err
}

// fenceBody is the body of every write.
type fenceBody struct {
	Fence    uint64          `json:"fence"`
	Lease    string          `json:"lease,omitempty"`
	Response json.RawMessage `json:"response,omitempty"`
	Retry    bool            `json:"retry,omitempty"`
}

func (c *Client) write(ctx context.Context, key, call string, body fenceBody, decode func(*answer) error) error {
	encoded, err := encodeCall(body)
	if err != nil {
		return err
	}
	return c.onKey(ctx, http.MethodPost, key, call, encoded, 0, decode)
}

func (c *Client) writeRecord(ctx context.Context, key, call string, body fenceBody) (*Record, error) {
	var record *Record
	err := c.write(ctx, key, call, body, func(a *answer) (err error) {
		if err := a.wants(http.StatusOK); err != nil {
			return err
		}
		record, err = parseRecord(a.body)
		return err
	})
	return record, err
}

func (c *Client) onKey(ctx context.Context, method, key, call string, body []byte, wait time.Duration, decode func(*answer) error) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return c.do(ctx, &request{method: method, path: keyPath(key, call), body: body, wait: wait}, decode)
}

func (c *Client) do(ctx context.Context, q *request, decode func(*answer) error) error {
	ctx, cancel := c.bounded(ctx, 0)
	defer cancel()
	return c.call(ctx, q, decode)
}

// keyPath returns the path of a call on key. A key that is all dots would be
// taken for a step in the path.
func keyPath(key, call string) string {
	segment := url.PathEscape(key)
	if strings.Trim(segment, ".") == "" {
		segment = strings.ReplaceAll(segment, ".", "%2E")
	}
	path := "/v1/keys/" + segment
	if call != "" {
		path += "/" + call
	}
	return path
}

// duration returns d as the API takes it; "", which is left out, for 0.
func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func encodeCall(body any) ([]byte, error) {
	encoded, err := encodeJSON(body)
	if err != nil {
		return nil, refused(err)
	}
	return encoded, nil
}

// refused is the error of an argument that cannot be sent.
func refused(err error) error {
	e := newError(ErrBadRequest, err.Error())
	e.causes = []error{err}
	return e
}
