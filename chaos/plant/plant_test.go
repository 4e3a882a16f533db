package plant

import (
	"reflect"
	"testing"

	"github.com/onced/onced/chaos/history"
)

// Each fault has a name and a rule, and says so where there is no place for it.
func TestNothingIsPlantedWhereNothingIs(t *testing.T) {
	names := map[string]bool{}
	for _, f := range Faults() {
		if f.Name == "" || f.Rule == "" || names[f.Name] {
			t.Errorf("%q by %q: the name is taken, or one is missing", f.Name, f.Rule)
		}
		names[f.Name] = true
		h := &history.History{End: &history.End{}}
		if _, planted, err := f.In(h); planted || err != nil {
			t.Errorf("%s is planted in nothing: %t, %v", f.Name, planted, err)
		}
	}
}

// What is planted is planted in a copy.
func TestTheHistoryStaysAsItIs(t *testing.T) {
	make := func() *history.History {
		return &history.History{
			Run: history.Run{Format: history.Format}, States: []*history.State{{Node: "n1", Index: 1, Hash: "a"}}, End: &history.End{},
		}
	}
	h := make()
	planted, ok, err := Fault{plant: diverge}.In(h)
	if err != nil || !ok || len(planted.States) != 2 || planted.States[1].Hash == "a" {
		t.Errorf("it is planted as %+v: %t, %v", planted, ok, err)
	}
	if !reflect.DeepEqual(h, make()) {
		t.Errorf("the history became %+v", h)
	}
}
