package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/onced/onced/chaos/history"
	"github.com/onced/onced/chaos/load"
)

// statusClient asks nodes how they are. Its requests are no part of the history.
type statusClient struct{ http *http.Client }

// askWithin bounds the answer to one question.
const askWithin = 2 * time.Second

func newStatusClient(dial func(context.Context, string, string) (net.Conn, error)) *statusClient {
	return &statusClient{&http.Client{Timeout: askWithin, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Second}}}
}

func (c *statusClient) close() { c.http.CloseIdleConnections() }

// clusterStatus is part of GET /v1/cluster.
type clusterStatus struct {
	Leader string `json:"leader"`
	Term   uint64 `json:"term"`
}

func (c *statusClient) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("build request: %w", err)
	}
	return c.do(req, into)
}

func (c *statusClient) do(req *http.Request, into any) error {
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask node: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case res.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: status %d: %.200s", req.Method, req.URL.Path, res.StatusCode, body)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

func (c *statusClient) cluster(ctx context.Context, base string) (s clusterStatus, err error) {
	return s, c.get(ctx, base+"/v1/cluster", &s)
}

func (c *statusClient) ready(ctx context.Context, base string) bool {
	return c.get(ctx, base+"/readyz", nil) == nil
}

func (c *statusClient) transfer(ctx context.Context, base, to string) error {
	body := strings.NewReader(fmt.Sprintf(`{"to":%q}`, to))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/cluster/transfer", body)
	if err != nil {
		return fmt.Errorf("build request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	return c.do(req, nil)
}

// watchEvery is between two looks at who leads.
const watchEvery = 100 * time.Millisecond

// watch records who leads, by the node that knows of the highest term, until ctx
// ends.
func (c *statusClient) watch(ctx context.Context, nodes []load.Node, to *history.Writer, clock func() history.Nano) {
	last := history.Leader{Node: "nobody was asked"}
	for ctx.Err() == nil {
		answers := make([]clusterStatus, len(nodes))
		var wg sync.WaitGroup
		for i, n := range nodes {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, 4*watchEvery)
				defer cancel()
				answers[i], _ = c.cluster(ctx, n.API) // no answer names no leader
			})
		}
		wg.Wait()
		now := history.Leader{At: clock()}
		for _, a := range answers {
			if a.Term > now.Term || a.Term == now.Term && a.Leader != "" {
				now.Term, now.Node = a.Term, a.Leader
			}
		}
		if (now.Node != last.Node || now.Term != last.Term) && ctx.Err() == nil {
			last = now
			to.Leader(&now)
		}
		if sleep(ctx, watchEvery) != nil {
			return
		}
	}
}

// nodeState is GET /v1/cluster/state.
type nodeState struct {
	Index uint64 `json:"applied_index"`
	Hash  string `json:"state_hash"`
}

// sameWithin bounds the wait for nodes to hold as much as each other.
const sameWithin = 60 * time.Second

// awaitSame records what the nodes hold until all were seen with as many
// entries applied.
func (c *statusClient) awaitSame(ctx context.Context, nodes []load.Node, to *history.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, sameWithin)
	defer cancel()
	for {
		states := make([]*history.State, len(nodes))
		var wg sync.WaitGroup
		for i, n := range nodes {
			wg.Go(func() {
				var s nodeState
				if c.get(ctx, n.API+"/v1/cluster/state", &s) == nil {
					states[i] = &history.State{Node: n.ID, Index: s.Index, Hash: s.Hash}
				}
			})
		}
		wg.Wait()
		same := true
		for _, s := range states {
			if s != nil {
				to.State(s)
			}
			same = same && s != nil && states[0] != nil && s.Index == states[0].Index
		}
		if same {
			return nil
		}
		if sleep(ctx, probeEvery) != nil {
			return errors.New("the nodes did not come to hold as much as each other")
		}
	}
}
