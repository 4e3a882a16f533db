//go:build linux

package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/onced/onced/chaos/netns"
)

// cut cuts links and leaves them so.
func (f *injection) cut(ctx context.Context, links ...netns.Link) (heal func(context.Context) error, err error) {
	t, err := f.net.Cut(ctx, links...)
	return f.trouble("were stopped", t, err)
}

// partitionNode cuts a node off from everyone.
func partitionNode(ctx context.Context, f *injection) error {
	m := f.any()
	f.on(m)
	if _, err := f.cut(ctx, netns.Both(m.Host, f.net.Everyone(m.Host)...)...); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// leaderCut cuts links of the leader and waits until another leads.
func (f *injection) leaderCut(ctx context.Context, links func(leader *netns.Host, others []*netns.Host) []netns.Link) error {
	m, err := f.leader(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	if _, err := f.cut(ctx, links(m.Host, f.net.Others(m.Host))...); err != nil {
		return err
	}
	if err := f.newLeader(ctx, m); err != nil {
		return err
	}
	return wait(ctx, f.hold/2)
}

// partitionLeader cuts the leader off from everyone.
func partitionLeader(ctx context.Context, f *injection) error {
	return f.leaderCut(ctx, func(m *netns.Host, _ []*netns.Host) []netns.Link {
		return netns.Both(m, f.net.Everyone(m)...)
	})
}

// partitionPeers cuts the leader off from its peers, while clients reach it.
func partitionPeers(ctx context.Context, f *injection) error {
	return f.leaderCut(ctx, func(m *netns.Host, others []*netns.Host) []netns.Link { return netns.Both(m, others...) })
}

// partitionDeaf leaves a leader that is heard and hears no peer.
func partitionDeaf(ctx context.Context, f *injection) error {
	return f.leaderCut(ctx, func(m *netns.Host, others []*netns.Host) []netns.Link { return netns.Into(m, others...) })
}

// partitionMute leaves a leader that hears its peers and is not heard.
func partitionMute(ctx context.Context, f *injection) error {
	return f.leaderCut(ctx, func(m *netns.Host, others []*netns.Host) []netns.Link { return netns.OutOf(m, others...) })
}

// partitionBridge leaves one node that reaches all, while the others do not
// reach each other.
func partitionBridge(ctx context.Context, f *injection) error {
	bridge := f.any()
	rest := f.others(bridge)
	f.on(rest...)
	var links []netns.Link
	for i, a := range rest {
		for _, b := range rest[i+1:] {
			links = append(links, netns.Both(a.Host, b.Host)...)
		}
	}
	// Followers have nothing to say to each other, so a new leader is wanted:
	// one of them has to ask the other for its vote.
	if _, err := f.cut(ctx, links...); err != nil {
		return err
	}
	leader, err := f.leader(ctx)
	if err != nil {
		return err
	}
	to := bridge
	if leader == bridge {
		to = rest[0]
	}
	// Refused where the cut has deposed the leader meanwhile.
	_ = f.command(ctx, http.MethodPost, "/v1/cluster/transfer", fmt.Sprintf(`{"to":%q}`, to.Name()), leader)
	return wait(ctx, f.hold)
}

// peerLinks are all links between nodes.
func (f *injection) peerLinks() (links []netns.Link) {
	for _, m := range f.Nodes {
		links = append(links, netns.Into(m.Host, f.net.Others(m.Host)...)...)
	}
	return links
}

// loss drops some of the packets between all nodes.
func loss(ctx context.Context, f *injection) error {
	f.on(f.Nodes...)
	share := 0.02 + 0.2*f.chance.Float64()
	t, err := f.net.Lose(ctx, share, f.peerLinks()...)
	if _, err := f.trouble(fmt.Sprintf("were lost, one of %.0f", 1/share), t, err); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// delay makes the links between nodes slow, each packet by the same time.
func delay(ctx context.Context, f *injection) error {
	by := 5*time.Millisecond + time.Duration(f.chance.Int64N(int64(60*time.Millisecond)))
	return f.slow(ctx, fmt.Sprintf("were held for %v", by.Round(time.Millisecond)), func() time.Duration { return by })
}

// reorder makes packets between nodes overtake one another.
func reorder(ctx context.Context, f *injection) error {
	var mu sync.Mutex // a goroutine for each host
	chance := rand.New(rand.NewPCG(f.chance.Uint64(), 0))
	return f.slow(ctx, "were held for up to 60ms and overtook one another", func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(chance.Int64N(int64(60 * time.Millisecond)))
	})
}

func (f *injection) slow(ctx context.Context, what string, by func() time.Duration) error {
	f.on(f.Nodes...)
	t, err := f.net.Delay(ctx, by, f.peerLinks()...)
	if _, err := f.trouble(what, t, err); err != nil {
		return err
	}
	return wait(ctx, f.hold)
}

// partKill cuts a follower off until it is behind, cuts the power of the leader
// with the entries that it lacks, and has it and the rest go on without.
func partKill(ctx context.Context, f *injection) error {
	behind, leader, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(behind, leader)
	heal, err := f.cut(ctx, netns.Both(behind.Host, f.net.Others(behind.Host)...)...)
	if err != nil {
		return err
	}
	if err := wait(ctx, f.hold/2); err != nil {
		return err
	}
	if err := f.crash(ctx, leader); err != nil {
		return err
	}
	if err := heal(ctx); err != nil {
		return err
	}
	return f.newLeader(ctx, leader)
}

// removeCutOff removes a node that is cut off and does not hear of it, and then
// lets it come back, to disturb the rest.
func removeCutOff(ctx context.Context, f *injection) error {
	m, _, err := f.follower(ctx)
	if err != nil {
		return err
	}
	f.on(m)
	heal, err := f.cut(ctx, netns.Both(m.Host, f.net.Everyone(m.Host)...)...)
	if err != nil {
		return err
	}
	f.later(func(ctx context.Context) error { return f.replace(ctx, m) })
	old := m.Name()
	if err := f.command(ctx, http.MethodDelete, "/v1/cluster/nodes/"+old, "", f.others(m)...); err != nil {
		return err
	}
	f.saw("%s was removed while cut off", old)
	if err := wait(ctx, f.hold/2); err != nil {
		return err
	}
	if err := heal(ctx); err != nil {
		return err
	}
	return wait(ctx, f.hold/2)
}
