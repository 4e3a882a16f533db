package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"
)

type statusCmd struct {
	target
	JSON bool          `name:"json" help:"Print the answer of GET /v1/cluster as it is."`
	Wait time.Duration `help:"First wait this long for every node of --addr to be ready."`
}

// clusterView is the part of GET /v1/cluster that the table shows.
type clusterView struct {
	Leader string     `json:"leader"`
	Term   uint64     `json:"term"`
	Nodes  []nodeView `json:"nodes"`
}

type nodeView struct {
	ID           string `json:"id"`
	HTTPAddr     string `json:"http_addr"`
	Voter        bool   `json:"voter"`
	Healthy      bool   `json:"healthy"`
	AppliedIndex uint64 `json:"applied_index"`
}

// Run prints a table of the nodes, as the first node that answers sees them.
func (c *statusCmd) Run(s *session) error {
	if c.Wait > 0 {
		if err := c.awaitReady(s.ctx); err != nil {
			return err
		}
	}
	var answer json.RawMessage
	if err := c.call(s.ctx, http.MethodGet, "/v1/cluster", nil, nil, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.stdout, answer)
	}
	var view clusterView
	if err := json.Unmarshal(answer, &view); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return view.print(s.stdout)
}

func (v clusterView) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tROLE\tTERM\tAPPLIED\tHEALTHY\tHTTP")
	for _, n := range v.Nodes {
		role, healthy, addr := "follower", "no", n.HTTPAddr
		switch {
		case n.ID == v.Leader:
			role = "leader"
		case !n.Voter:
			role = "nonvoter"
		}
		if n.Healthy {
			healthy = "yes"
		}
		if addr == "" {
			addr = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", n.ID, role, v.Term, n.AppliedIndex, healthy, addr)
	}
	return table.Flush()
}

// pollInterval is how often a node that is not ready is asked again.
const pollInterval = 100 * time.Millisecond

func (c *statusCmd) awaitReady(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	for _, addr := range c.Addr {
		if err := awaitReady(waiting, addr); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s is not ready after %v: %w", addr, c.Wait, err)
		}
	}
	return nil
}

// awaitReady returns nil once the node at addr is ready, and else, when ctx
// ends, the reason that was last heard.
func awaitReady(ctx context.Context, addr string) error {
	last := errors.New("no answer")
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		one := target{Addr: []string{addr}, Timeout: time.Second}
		err := one.call(ctx, http.MethodGet, "/readyz", nil, nil, nil)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-poll.C:
		}
	}
}
