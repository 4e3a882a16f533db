//go:build linux

package fault

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestTheSameSeedGivesTheSamePlan(t *testing.T) {
	plan := func(seed uint64, kinds []string) []Step {
		t.Helper()
		steps, err := Plan(seed, kinds, 20*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return steps
	}
	first := plan(1, Kinds())
	backwards := Kinds()
	slices.Reverse(backwards)
	if !reflect.DeepEqual(first, plan(1, backwards)) {
		t.Error("one seed gave two plans")
	}
	if reflect.DeepEqual(first, plan(2, Kinds())) {
		t.Error("two seeds gave one plan")
	}
}

func TestAPlanMeetsEachKindAndMixesWhatGoesTogether(t *testing.T) {
	steps, err := Plan(3, Kinds(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]bool{}
	mixed := 0
	var filled time.Duration
	for _, s := range steps {
		filled += s.Hold + s.Pause
		for _, k := range s.Kinds {
			met[k] = true
		}
		if s.Hold < minHold || s.Hold >= maxHold || s.Pause < minPause || s.Pause >= maxPause {
			t.Errorf("step %+v", s)
		}
		if len(s.Kinds) == 2 {
			mixed++
			if first, second := catalogue[s.Kinds[0]], catalogue[s.Kinds[1]]; !first.minority || !second.ambient || first.disks && second.disks {
				t.Errorf("%v do not go together", s)
			}
		}
	}
	if len(met) != len(Kinds()) || mixed == 0 || filled < time.Hour || filled > time.Hour+maxHold+maxPause {
		t.Errorf("%d steps of %v meet %d kinds of %d, %d are mixed", len(steps), filled, len(met), len(Kinds()), mixed)
	}
	round := map[string]bool{}
	for _, s := range steps[:len(Kinds())] {
		round[s.Kinds[0]] = true
	}
	if len(round) != len(Kinds()) {
		t.Errorf("the first round has %d kinds of %d", len(round), len(Kinds()))
	}
}

func TestAPlanOfWhatThereIsNotIsRefused(t *testing.T) {
	for name, kinds := range map[string][]string{"none": nil, "unknown": {"kill-all", "earthquake"}} {
		if _, err := Plan(1, kinds, time.Minute); err == nil {
			t.Errorf("%s: planned", name)
		}
	}
}
