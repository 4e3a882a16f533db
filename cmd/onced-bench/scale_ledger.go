package main

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

const (
	ledgerPage  = 1 << 16 // keys
	ledgerPages = 1 << 12
)

// ledger numbers the keys that are created, and remembers what each was
// answered: eight bytes a key, so that millions of answers can be checked to
// the byte without being kept. The request itself follows from the number.
type ledger struct {
	next  atomic.Uint64 // number of the next key
	mu    sync.Mutex    // held to add a page
	pages [ledgerPages]atomic.Pointer[[ledgerPage]atomic.Uint64]
}

// take returns the number of a key that is not yet created. There are at most
// ledgerPage*ledgerPages of them.
func (l *ledger) take() uint64 { return l.next.Add(1) - 1 }

// keep notes what the first request of a number was answered.
func (l *ledger) keep(number uint64, body []byte) {
	at := &l.pages[number/ledgerPage]
	page := at.Load()
	if page == nil {
		l.mu.Lock()
		if page = at.Load(); page == nil {
			page = new([ledgerPage]atomic.Uint64)
			at.Store(page)
		}
		l.mu.Unlock()
	}
	page[number%ledgerPage].Store(digest(body))
}

// kept tells whether a number's answer is known, and whether it was body.
func (l *ledger) kept(number uint64, body []byte) (known, same bool) {
	page := l.pages[number/ledgerPage].Load()
	if page == nil {
		return false, false
	}
	sum := page[number%ledgerPage].Load()
	return sum != 0, sum == digest(body)
}

// pick returns the number of some key whose answer is known, each of the newest
// so many as likely as another, if there is one within a few tries.
func (l *ledger) pick(random *rand.Rand, newest uint64) (uint64, bool) {
	const tries = 100
	total := l.next.Load()
	for range tries {
		if total == 0 {
			break
		}
		number := total - 1 - random.Uint64N(min(total, newest))
		if known, _ := l.kept(number, nil); known {
			return number, true
		}
	}
	return 0, false
}

// digest is never 0, which stands for an answer that is not known.
func digest(body []byte) uint64 { return max(1, xxhash.Sum64(body)) }
