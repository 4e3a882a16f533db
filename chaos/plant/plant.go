// Package plant puts faults into a valid history, to show that the checks see
// them: each is what a client would have seen of a service with a bug.
package plant

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/onced/onced/chaos/history"
)

// Fault is one kind of fault that can be planted.
type Fault struct {
	Name string // what the service would have done
	Rule string // the rule that must find it
	// plant changes a key of the history, or reports that it is not there.
	plant func(*planter) bool
}

// In returns a copy of h with the fault in it, and false if there is no place
// for it.
func (f Fault) In(h *history.History) (*history.History, bool, error) {
	var file bytes.Buffer
	if err := history.Write(&file, h); err != nil {
		return nil, false, err
	}
	copied, err := history.Read(&file)
	if err != nil {
		return nil, false, fmt.Errorf("copy history: %w", err)
	}
	return copied, f.plant(newPlanter(copied)), nil
}

// planter knows its way about a history.
type planter struct {
	*history.History
	keys []*key
}

// key is what happened to one key that is fit to be tampered with: every call
// was answered, and no operator was at work.
type key struct {
	calls   []*history.Call
	effects []*history.Effect
}

// margin is more than any clock may be apart.
const margin = 300_000_000

func newPlanter(h *history.History) *planter {
	p := &planter{History: h}
	index, unfit := map[history.Key]*key{}, map[history.Key]bool{}
	for _, c := range h.Calls {
		k := index[c.Of()]
		if k == nil {
			k = new(key)
			index[c.Of()] = k
			p.keys = append(p.keys, k)
		}
		k.calls = append(k.calls, c)
		unfit[c.Of()] = unfit[c.Of()] || c.Ambiguous() || c.Kind == history.Forget || c.Kind == history.Resolve
	}
	for _, e := range h.Effects {
		if k := index[e.Of()]; k != nil {
			k.effects = append(k.effects, e)
		}
	}
	p.keys = slices.DeleteFunc(p.keys, func(k *key) bool { return unfit[k.calls[0].Of()] })
	for _, k := range p.keys {
		slices.SortStableFunc(k.calls, func(a, b *history.Call) int { return cmp.Compare(a.Begin, b.Begin) })
	}
	return p
}

// first plants in the first call that fits, and reports whether there is one.
func (p *planter) first(fits func(*key, *history.Call) bool, plant func(*key, *history.Call)) bool {
	for _, k := range p.keys {
		for _, c := range k.calls {
			if c.Answer != nil && fits(k, c) {
				plant(k, c)
				return true
			}
		}
	}
	return false
}

// sameFrom returns the first call that was answered with the response of c, if
// that returned before c began and c returned well within the retention.
func (k *key) sameFrom(c *history.Call) *history.Call {
	for _, x := range k.calls {
		if x != c && x.Answer != nil && x.Answer.Digest == c.Answer.Digest && x.End < c.Begin && c.End+margin < k.calls[0].Begin+c.TTL {
			return x
		}
	}
	return nil
}

// standing reports whether c was answered with a response that another call had
// been answered with before, and that cannot have ended.
func standing(k *key, c *history.Call) bool {
	return c.Answer.Digest != "" && k.sameFrom(c) != nil
}

func (p *planter) nextID() (id uint64) {
	for _, c := range p.Calls {
		id = max(id, c.ID)
	}
	return id + 1
}

func (p *planter) highestFence() (fence uint64) {
	for _, c := range p.Calls {
		if c.Answer != nil {
			fence = max(fence, c.Answer.Fence)
		}
	}
	return fence
}

func (p *planter) effectOf(c *history.Call) *history.Effect {
	for _, e := range p.Effects {
		if e.Call == c.ID {
			return e
		}
	}
	return nil
}
