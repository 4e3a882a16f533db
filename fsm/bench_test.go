package fsm

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
)

// benchBatch is how many commands a log entry packs under load.
const benchBatch = 256

func BenchmarkClaimComplete(b *testing.B) {
	benchmark(b, func(b *testing.B, r *rig) {
		body := fmt.Sprintf("%0500d", 1)
		done := response(200, body)
		c := costsOf(b)
		for i := uint64(1); b.Loop(); i += benchBatch {
			claims, completes := make([]*Command, benchBatch), make([]*Command, benchBatch)
			c.pause()
			for j := range claims {
				k := fmt.Sprint("key-", i+uint64(j))
				claims[j] = claim("", key(k), numbered(i+uint64(j)))
				completes[j] = command(Kind_COMPLETE, "", []change{key(k), numbered(i + uint64(j)), fenced(i + uint64(j))})
				completes[j].Response = done
			}
			entries := []LogEntry{
				{Index: r.index + 1, Term: 1, Data: entry(b, start, claims...)},
				{Index: r.index + 2, Term: 1, Data: entry(b, start, completes...)},
			}
			r.index += 2
			c.resume()
			for n := range entries {
				applied, err := r.Apply(entries[n : n+1])
				if err != nil {
					b.Fatal(err)
				}
				if o := applied.Outcomes[0][0]; o.Code != Code_GRANTED && o.Code != Code_OK {
					b.Fatal(brief(o))
				}
			}
		}
		c.report(2 * benchBatch)
	})
}

func BenchmarkCreate(b *testing.B) {
	benchmark(b, func(b *testing.B, r *rig) {
		done := response(201, fmt.Sprintf("%0500d", 1))
		c := costsOf(b)
		for i := 0; b.Loop(); i += benchBatch {
			c.pause()
			creates := make([]*Command, benchBatch)
			for j := range creates {
				id := fmt.Sprint("id-", i+j)
				creates[j] = create("", id, key(id), numbered(uint64(i+j)), unique("email", id))
				creates[j].Response = done
			}
			r.index++
			entries := []LogEntry{{Index: r.index, Term: 1, Data: entry(b, start, creates...)}}
			c.resume()
			applied, err := r.Apply(entries)
			if err != nil {
				b.Fatal(err)
			}
			if o := applied.Outcomes[0][0]; o.Code != Code_CREATED || o.Record.Response.Status != 201 {
				b.Fatal(brief(o))
			}
		}
		c.report(benchBatch)
	})
}

func benchCreates() []*Command {
	creates := make([]*Command, benchBatch)
	for i := range creates {
		creates[i] = create("", fmt.Sprint(i), key(fmt.Sprint(i)), numbered(uint64(i)))
		creates[i].Response = response(201, fmt.Sprintf("%0500d", 1))
	}
	return creates
}

// BenchmarkEncode is the way of a command into a log entry.
func BenchmarkEncode(b *testing.B) {
	creates := benchCreates()
	c := costsOf(b)
	for b.Loop() {
		EncodeEntry(start, encodeAll(b, creates))
	}
	c.report(benchBatch)
}

// BenchmarkDecode is the way back out of it.
func BenchmarkDecode(b *testing.B) {
	data := entry(b, start, benchCreates()...)
	of := costsOf(b)
	for b.Loop() {
		_, commands, err := decodeEntry(data)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range commands {
			if _, err := decodeCommand(c); err != nil {
				b.Fatal(err)
			}
		}
	}
	of.report(benchBatch)
}

func BenchmarkLookup(b *testing.B) {
	benchmark(b, func(b *testing.B, r *rig) {
		const keys = 10_000
		for i := range keys {
			r.do(create(fmt.Sprint(i), fmt.Sprint(i), key(fmt.Sprint(i))))
		}
		for i := 0; b.Loop(); i++ {
			if rec, err := r.Lookup("ns", fmt.Sprint(i%keys)); err != nil || rec == nil {
				b.Fatal(rec, err)
			}
		}
	})
}

// benchmark runs bench on a machine over each store; with "files" nearly all keys are in
// the files of generations.
func benchmark(b *testing.B, bench func(*testing.B, *rig)) {
	for name, options := range map[string]PebbleOptions{
		"mem": {}, "pebble": {}, "files": {GenerationKeys: 1 << 10, buildAtOnce: true},
	} {
		b.Run(name, func(b *testing.B) {
			r := &rig{TB: b, store: NewMem(), now: start}
			if name != "mem" {
				p, err := OpenPebble(b.TempDir(), options)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() {
					if err := p.Close(); err != nil {
						b.Error(err)
					}
				})
				r.store = p
			}
			r.open()
			r.do(bindCommand())
			b.ReportAllocs()
			bench(b, r)
		})
	}
}

// numbered gives a command the nth request id.
func numbered(n uint64) change {
	return func(c *Command) { c.RequestId = binary.BigEndian.AppendUint64(make([]byte, 8, 16), n) }
}

// costs counts what commands cost, of which an iteration of a benchmark has several.
// Its timer and count run but between pause and resume.
type costs struct {
	*testing.B
	allocations, from uint64
}

func costsOf(b *testing.B) *costs { return &costs{B: b, from: mallocs()} }

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func (c *costs) pause() {
	c.StopTimer()
	c.allocations += mallocs() - c.from
}

func (c *costs) resume() {
	c.from = mallocs()
	c.StartTimer()
}

// report reports time and allocations by the command, of which an iteration has n.
func (c *costs) report(n int) {
	commands := float64(c.N * n)
	c.ReportMetric(float64(c.allocations+mallocs()-c.from)/commands, "allocs/command")
	c.ReportMetric(float64(c.Elapsed().Nanoseconds())/commands, "ns/command")
}
