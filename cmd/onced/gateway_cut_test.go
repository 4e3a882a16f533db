//go:build linux

package main

import (
	"net/http"
	"slices"
	"testing"

	"github.com/onced/onced/chaos/netns"
)

// networked is a gated cluster with a host for each node. The upstream and the
// clients are beside them, and reach every node whatever the nodes do to one
// another.
type networked struct {
	*gated
	net *netns.Network
}

// startNetworked starts three nodes. It needs root, ip and iptables.
func startNetworked(t *testing.T, routes string, flags ...string) *networked {
	t.Helper()
	network, err := netns.New(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{DialContext: network.DialContext, MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	through := &http.Client{Timeout: client.Timeout, Transport: transport}
	n := &networked{net: network, gated: &gated{up: startUpstreamOn(t, network.Clients, network.Clients.At(0), through)}}
	n.processes = newProcesses(t, len(network.Hosts), n.gated.flags(routes, append(flags, "--insecure")...)...)
	n.client = through
	for i, p := range n.nodes {
		host := network.Hosts[i]
		p.host, p.http, p.raft = host, host.At(18001), host.At(17001)
		n.addrs = append(n.addrs, host.At(19001))
		p.flags = []string{"--gateway-addr", n.addrs[i]}
	}
	for i := range n.nodes { // all know the addresses of all
		n.start(i)
	}
	n.awaitReady()
	return n
}

// cutOff cuts node i off from the other nodes alone. What it returns heals the
// cut, and fails the test if it never stopped a packet.
func (n *networked) cutOff(i int) (heal func()) {
	n.t.Helper()
	host := n.net.Hosts[i]
	cut, err := n.net.Cut(n.t.Context(), netns.Both(host, n.net.Others(host)...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	return func() {
		n.t.Helper()
		if packets, err := cut.Packets(n.t.Context()); err != nil || packets == 0 {
			n.t.Errorf("the cut stopped %d packets, %v", packets, err)
		}
		if err := cut.Heal(n.t.Context()); err != nil {
			n.t.Fatal(err)
		}
	}
}

// sameEverywhere fails the test unless each node replays body, and holds the
// record that the first of them holds.
func (n *networked) sameEverywhere(path, key, body string) {
	n.t.Helper()
	for i := range n.nodes {
		n.until(i, path, key).wantsReplay(http.StatusCreated, body)
		want, got := n.record(0, key), n.record(i, key)
		if want.Response == nil || got.Response == nil || *want.Response != *got.Response {
			n.t.Fatalf("the record on %s is %+v, on the first %+v", n.nodes[i].id, got, want)
		}
		want.Response, got.Response = nil, nil
		if want != got {
			n.t.Errorf("the record on %s is %+v, on the first %+v", n.nodes[i].id, got, want)
		}
	}
	n.agree()
}

// eachCut runs a test with the holder of the claim cut off, once as the leader
// and once as a follower.
func eachCut(t *testing.T, test func(t *testing.T, n *networked, holder int, rest []int)) {
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel() // each mostly waits
			n := startNetworked(t, retryRoute, "--gateway-lease", "3s", "--request-timeout", "2s")
			holder := n.leader()
			if role == "follower" {
				holder = n.others(holder)[0]
			}
			test(t, n, holder, n.others(holder))
		})
	}
}

// refuses fails the test unless node i, which has no majority, runs nothing
// and replays nothing.
func (n *networked) refuses(i int, path, key string) {
	n.t.Helper()
	n.send(i, path, key).wantsProblem(http.StatusServiceUnavailable, "unavailable")
}

func TestAHolderThatItsPeersLostBlocksTheKeyAndCompletesItWhenHealed(t *testing.T) {
	t.Parallel()
	eachCut(t, func(t *testing.T, n *networked, holder int, rest []int) {
		const path, key = "/held/a", "order-1"
		first := n.holding(holder, path, key)
		fence := n.record(holder, key).Fence
		heal := n.cutOff(holder)
		n.until(rest[0], path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		if leader := n.leaderOf(rest[0]); !slices.Contains(rest, leader) {
			t.Errorf("%d leads, of those left: %v", leader, rest)
		}
		n.refuses(holder, path, key)
		n.up.open(path)
		(<-first).wantsProblem(http.StatusGatewayTimeout, "outcome-unknown")
		n.send(rest[1], path, key).wantsProblem(http.StatusConflict, "outcome-unknown")
		n.ranAs(rest[0], key, "unknown", 1, 1)
		heal()
		n.awaitState(rest[0], key, "completed")
		n.sameEverywhere(path, key, "run 1 of order-1")
		n.ranAs(rest[1], key, "completed", 1, 1)
		if got := n.record(holder, key).Fence; got != fence {
			t.Errorf("the record has fence %d, the claim had %d", got, fence)
		}
	})
}

func TestAHolderThatItsPeersLostIsTakenOverAndFenced(t *testing.T) {
	t.Parallel()
	for name, healFirst := range map[string]bool{"it learns its outcome while cut off": false, "it learns its outcome when healed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachCut(t, func(t *testing.T, n *networked, holder int, rest []int) {
				const path, key = "/held/retry/a", "order-1"
				first := n.holding(holder, path, key)
				heal := n.cutOff(holder)
				second := make(chan *reply, 1)
				go func() { second <- n.until(rest[0], path, key) }()
				n.grow(n.awaitHits(key, 2))
				n.refuses(holder, path, key)
				if healFirst {
					heal()
				}
				n.up.open(path)
				(<-second).wantsFirst(http.StatusCreated, "run 2 of order-1")
				(<-first).wantsProblem(http.StatusGatewayTimeout, "outcome-unknown")
				n.until(rest[1], path, key).wantsReplay(http.StatusCreated, "run 2 of order-1")
				if !healFirst {
					heal()
				}
				n.awaitState(holder, key, "completed")
				n.sameEverywhere(path, key, "run 2 of order-1")
				for i := range n.nodes {
					n.ranAs(i, key, "completed", 2, 2)
				}
			})
		})
	}
}
