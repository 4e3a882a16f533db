//go:build linux

package fault

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Step is what is to be done: one fault, or two at once.
type Step struct {
	Kinds []string
	Seed  uint64        // decides the nodes, offsets and shares
	Hold  time.Duration // how long things stay broken, about
	Pause time.Duration // before the step
}

// String names the faults.
func (s Step) String() string { return strings.Join(s.Kinds, "+") }

// Limits of how long a fault is held, and of the time in between. Some are above
// an election timeout, and some above the leases that a load has.
const (
	minHold, maxHold   = 700 * time.Millisecond, 5 * time.Second
	minPause, maxPause = 300 * time.Millisecond, 2 * time.Second
	// mixedShare is how many of the steps are of two faults.
	mixedShare = 0.25
)

// Planner deals steps, each kind once in each round. The same seed and kinds
// deal the same.
type Planner struct {
	chance *rand.Rand
	kinds  []string
	round  []string // what is left of it
}

// NewPlanner deals the given kinds, which must be ones of Kinds.
func NewPlanner(seed uint64, kinds []string) (*Planner, error) {
	if len(kinds) == 0 {
		return nil, fmt.Errorf("plan: no faults are given")
	}
	for _, k := range kinds {
		if _, known := catalogue[k]; !known {
			return nil, fmt.Errorf("plan: there is no fault %q", k)
		}
	}
	sorted := slices.Clone(kinds)
	slices.Sort(sorted)
	return &Planner{chance: rand.New(rand.NewPCG(seed, 0)), kinds: slices.Compact(sorted)}, nil
}

// Next deals a step.
func (p *Planner) Next() Step {
	s := Step{Kinds: []string{p.deal()}}
	if second := p.companions(s.Kinds[0]); len(second) > 0 && p.chance.Float64() < mixedShare {
		s.Kinds = append(s.Kinds, second[p.chance.IntN(len(second))])
	}
	s.Seed = p.chance.Uint64()
	s.Hold = minHold + time.Duration(p.chance.Int64N(int64(maxHold-minHold)))
	s.Pause = minPause + time.Duration(p.chance.Int64N(int64(maxPause-minPause)))
	return s
}

func (p *Planner) deal() string {
	if len(p.round) == 0 {
		p.round = slices.Clone(p.kinds)
		p.chance.Shuffle(len(p.round), func(i, j int) { p.round[i], p.round[j] = p.round[j], p.round[i] })
	}
	k := p.round[0]
	p.round = p.round[1:]
	return k
}

// companions are the kinds that go together with one that breaks a minority:
// those that break nothing. A disk has one fault at a time.
func (p *Planner) companions(first string) (all []string) {
	if !catalogue[first].minority {
		return nil
	}
	for _, k := range p.kinds {
		if catalogue[k].ambient && !(catalogue[first].disks && catalogue[k].disks) {
			all = append(all, k)
		}
	}
	return all
}

// Plan deals steps until their pauses and holds fill duration. What healing takes
// is not counted.
func Plan(seed uint64, kinds []string, duration time.Duration) (steps []Step, err error) {
	p, err := NewPlanner(seed, kinds)
	if err != nil {
		return nil, err
	}
	for filled := time.Duration(0); filled < duration; {
		s := p.Next()
		filled += s.Hold + s.Pause
		steps = append(steps, s)
	}
	return steps, nil
}
