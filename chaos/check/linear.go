package check

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/onced/onced/chaos/history"
)

// bounds are those of the search for an order of one key's operations.
type bounds struct {
	within time.Duration
	steps  int // how often the model may be asked, and states compared; 0: without a bound
}

func (o Options) bounds() bounds { return bounds{o.KeyTimeout, o.KeySteps} }

// porcupineModel is m for one key. Each operation is its own input; outputs are
// part of it. Steps and comparisons are counted in asked, the latter because they
// grow with the square of the states that are possible at once. Beyond most of
// them nothing is possible, and all states are one: that ends the search soon, and
// its result is then to be thrown away.
func (m model) porcupineModel(asked *int, most int) porcupine.Model {
	spent := func() bool { *asked++; return most > 0 && *asked > most }
	seed := maphash.MakeSeed()
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{state{}} },
		Step: func(s, in, _ any) []any {
			if spent() {
				return nil
			}
			states := m.step(s.(state), in.(*operation))
			next := make([]any, len(states))
			for i := range states {
				next[i] = states[i]
			}
			return next
		},
		Equal: func(a, b any) bool { return spent() || a.(state) == b.(state) },
		Hash:  func(s any) uint64 { return maphash.Comparable(seed, s.(state)) },
	}
	return nondeterministic.ToModel()
}

// verdict is what porcupine says of one key: unknown if it came to a bound.
func (m model) verdict(ops []*operation, b bounds) porcupine.CheckResult {
	all := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		all[i] = porcupine.Operation{ClientId: i, Input: op, Call: int64(op.begin), Return: int64(op.end)}
	}
	asked := 0 // by one goroutine, as a key is one partition
	result := porcupine.CheckOperationsTimeout(m.porcupineModel(&asked, b.steps), all, b.within)
	if result == porcupine.Unknown {
		return result // that goroutine may be at it still
	}
	if b.steps > 0 && asked > b.steps {
		return porcupine.Unknown
	}
	return result
}

// keyed is all that the history has of one key.
type keyed struct {
	key     history.Key
	calls   []*history.Call
	effects []*history.Effect
}

func byKey(h *history.History) []*keyed {
	index := map[history.Key]*keyed{}
	var all []*keyed
	at := func(k history.Key) *keyed {
		if index[k] == nil {
			index[k] = &keyed{key: k}
			all = append(all, index[k])
		}
		return index[k]
	}
	for _, c := range h.Calls {
		k := at(c.Of())
		k.calls = append(k.calls, c)
	}
	for _, e := range h.Effects {
		k := at(e.Of())
		k.effects = append(k.effects, e)
	}
	for _, k := range all {
		slices.SortStableFunc(k.calls, func(a, b *history.Call) int { return cmp.Compare(a.Begin, b.Begin) })
		slices.SortStableFunc(k.effects, func(a, b *history.Effect) int { return cmp.Compare(a.Begin, b.Begin) })
	}
	slices.SortFunc(all, func(a, b *keyed) int {
		return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Key, b.key.Key))
	})
	return all
}

// linearizable checks every key against the model. Keys that took too long are
// counted, and are no finding.
func (j *judgement) linearizable(ctx context.Context) {
	m := model{j.Margin}
	results := make([]porcupine.CheckResult, len(j.keys))
	each := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range each {
				results[i] = m.verdict(operations(j.keys[i].calls, j.keys[i].effects, j.Options), j.bounds())
			}
		})
	}
	checked := 0
	for i := range j.keys {
		if ctx.Err() != nil {
			break
		}
		each <- i
		checked++
	}
	close(each)
	wg.Wait()
	j.undecided += len(j.keys) - checked
	for i, k := range j.keys[:checked] {
		j.examined[ruleLinearizable] += len(k.calls)
		switch results[i] {
		case porcupine.Unknown:
			j.undecided++
		case porcupine.Illegal:
			j.illegal(m, k)
		}
	}
}

// illegal reports a key whose history no order of its operations explains.
func (j *judgement) illegal(m model, k *keyed) {
	if j.found[ruleLinearizable] >= maxFindings {
		j.found[ruleLinearizable]++
		return
	}
	ops := m.shrink(operations(k.calls, k.effects, j.Options), j.bounds())
	var calls []*history.Call
	for _, op := range ops {
		if !slices.Contains(calls, op.call) {
			calls = append(calls, op.call)
		}
	}
	var effects []*history.Effect
	for _, e := range k.effects {
		if slices.ContainsFunc(calls, func(c *history.Call) bool { return c.ID == e.Call }) {
			effects = append(effects, e)
		}
	}
	j.find(ruleLinearizable, k.key, fmt.Sprintf("no order of these %d operations explains their answers", len(ops)), calls, effects)
}

// shrink returns a shortest illegal part of an illegal history: first the
// shortest time from the beginning that is illegal by itself, what had not
// returned by then being unanswered; then without every operation that changed
// nothing and is not needed. Operations that changed something stay: without
// them a history may be illegal that was legal with them.
func (m model) shrink(ops []*operation, b bounds) []*operation {
	illegal := func(ops []*operation) bool { return m.verdict(ops, b) == porcupine.Illegal }
	ends := make([]history.Nano, 0, len(ops))
	for _, op := range ops {
		ends = append(ends, op.end)
	}
	slices.Sort(ends)
	ends = slices.Compact(ends)
	n := sort.Search(len(ends), func(i int) bool { return illegal(until(ops, ends[i])) })
	if n < len(ends) {
		ops = until(ops, ends[n])
	}
	for i := len(ops) - 1; i >= 0; i-- {
		if !ops[i].readOnly() && !lastOf(ops, i) {
			continue
		}
		if rest := slices.Delete(slices.Clone(ops), i, i+1); illegal(rest) {
			ops = rest
		}
	}
	return ops
}

// lastOf reports whether operation i is unanswered and began after all others
// had returned: then nothing can show whether it was done.
func lastOf(ops []*operation, i int) bool {
	return ops[i].result == unanswered && !slices.ContainsFunc(ops, func(op *operation) bool { return op != ops[i] && op.end > ops[i].begin })
}

// until is what was known of ops at a moment.
func until(ops []*operation, at history.Nano) []*operation {
	var known []*operation
	for _, op := range ops {
		switch {
		case op.begin > at:
		case op.end > at && op.readOnly():
		case op.end > at && op.result != unanswered:
			open := *op
			open.result, open.end = unanswered, history.Never
			known = append(known, &open)
		default:
			known = append(known, op)
		}
	}
	return known
}
