package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// expiringNumbers are the numbers of keys that end soon; those of the ledger
// are below.
const expiringNumbers = uint64(1) << 62

// keeper runs operations on one connection against the keys of a ledger. It
// belongs to one goroutine.
type keeper struct {
	*operator
	ledger *ledger
	random *rand.Rand
}

// create creates the ledger's next key, whatever the number given.
func (k *keeper) create(ctx context.Context, _ uint64) (outcome, error) {
	return k.createNumber(ctx, k.ledger.take(), false)
}

// createNumber creates a key of the ledger. An answer that is a replay is
// right only if the request may have been sent before.
func (k *keeper) createNumber(ctx context.Context, number uint64, again bool) (outcome, error) {
	a, data, err := k.postCreate(ctx, number)
	switch {
	case err != nil:
		return failed(err)
	case a.status != 201:
		return unexpected(a)
	case a.replayed && !again:
		return wrong, errors.New("a new key was answered with a replay")
	}
	result, detail := created(a, data)
	if result == done {
		k.ledger.keep(number, a.body)
	}
	return result, detail
}

// createSurely creates the ledger's next key, trying again where the service
// may be busy.
func (k *keeper) createSurely(ctx context.Context) error {
	const attempts, pause = 40, 250 * time.Millisecond
	number := k.ledger.take()
	var detail error
	for i := range attempts {
		var result outcome
		if result, detail = k.createNumber(ctx, number, i > 0); result == done {
			return nil
		}
		if result == wrong {
			break
		}
		if err := sleepUntil(ctx, time.Now().Add(pause)); err != nil {
			return err
		}
	}
	return fmt.Errorf("create key %d: %w", number, detail)
}

// replay repeats the request of one of all the ledger's keys.
func (k *keeper) replay(ctx context.Context, _ uint64) (outcome, error) {
	return k.replayOf(ctx, math.MaxUint64)
}

// newestKeys are those that retries are of, where they come soon.
const newestKeys = 10_000

// replayNewest repeats the request of one of the ledger's newest keys.
func (k *keeper) replayNewest(ctx context.Context, _ uint64) (outcome, error) {
	return k.replayOf(ctx, newestKeys)
}

// replayOf repeats the request of one of the newest keys, and checks that its
// answer is byte for byte that of the first.
func (k *keeper) replayOf(ctx context.Context, newest uint64) (outcome, error) {
	number, found := k.ledger.pick(k.random, newest)
	if !found {
		return wrong, errors.New("there is no key to replay")
	}
	a, _, err := k.postCreate(ctx, number)
	if result, err := asReplay(a, err); result != done {
		return result, fmt.Errorf("key %d: %w", number, err)
	}
	if _, same := k.ledger.kept(number, a.body); !same {
		return wrong, fmt.Errorf("key %d was answered %.200q, which is not its first answer", number, a.body)
	}
	return done, nil
}

// ending returns an operation that claims and completes a key which ends the
// time that ttl returns after its completion. Where a copy of the completion came
// longer than that after the claim, the key may have ended by then, and its
// refusal is late.
func (k *keeper) ending(ttl func() time.Duration) operation {
	return func(ctx context.Context, number uint64) (outcome, error) {
		lasts := max(ttl(), time.Second).Round(time.Millisecond)
		k.part = append(k.part[:0], `{"lease":"30s","ttl":"`...)
		k.part = append(k.part, lasts.String()...)
		k.part = append(k.part, `"}`...)
		begun := time.Now().Round(0) // the wall clock, as the nodes': it goes on while the machine is halted
		result, detail := k.claimAsked(ctx, expiringNumbers|number)
		took := time.Since(begun)
		if refused := result == "409" || result == "503"; refused && k.granted && took >= lasts {
			return late, fmt.Errorf("after %s, for a key that lasts %s: %w", took, lasts, detail)
		}
		return result, detail
	}
}
