package main

import (
	"net/http"
	"net/url"
)

// nodeCmd holds the calls that change who is in the cluster and who leads.
type nodeCmd struct {
	List     statusCmd       `cmd:"" help:"Show the nodes of the cluster: the same as onced status."`
	Add      nodeAddCmd      `cmd:"" help:"Add a node that was started with --join and waits."`
	Remove   nodeRemoveCmd   `cmd:"" help:"Take a node out for good."`
	Transfer nodeTransferCmd `cmd:"" help:"Hand the leadership to another node."`
}

type nodeAddCmd struct {
	target
	ID       string `arg:"" name:"id" help:"Node id that the new node was started with."`
	RaftAddr string `arg:"" help:"Raft address that the new node was started with."`
	Nonvoter bool   `help:"Have it follow without a vote."`
}

// Run returns once the node is a member.
func (c *nodeAddCmd) Run(s *session) error {
	body := members{"id": c.ID, "raft_addr": c.RaftAddr, "voter": !c.Nonvoter}
	return c.call(s.ctx, http.MethodPost, "/v1/cluster/nodes", nil, body, nil)
}

type nodeRemoveCmd struct {
	target
	ID string `arg:"" name:"id" help:"Node id."`
}

// Run returns once the node is out.
func (c *nodeRemoveCmd) Run(s *session) error {
	return c.call(s.ctx, http.MethodDelete, "/v1/cluster/nodes/"+url.PathEscape(c.ID), nil, nil, nil)
}

type nodeTransferCmd struct {
	target
	To string `arg:"" optional:"" help:"Node id; without it, the node that is furthest along."`
}

// Run returns once another node leads.
func (c *nodeTransferCmd) Run(s *session) error {
	body := members{}
	body.set("to", c.To)
	return c.call(s.ctx, http.MethodPost, "/v1/cluster/transfer", nil, body, nil)
}
