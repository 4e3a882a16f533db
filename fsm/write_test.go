package fsm

import "testing"

// granted is the first step of a script: a claim, with a lease of 1 s.
func granted1(changes ...change) step {
	return step{0, claim("A", changes...), "GRANTED claimed fence=1 attempt=1 lease@1000"}
}

func completed1(at int64) step {
	return step{at, complete(1, "done"), "OK completed fence=1 attempt=1 ends@" + itoa(at+10_000) + " 200:done"}
}

func lapsed1(at int64) step { return step{at, expire(9), "OK 1"} }

func failed1(at int64) step {
	return step{at, fail(1), "OK unknown fence=1 attempt=1 ends@" + itoa(at+10_000)}
}

func takenOver(at int64) step {
	return step{at, claim("B"), "GRANTED claimed fence=2 attempt=2 lease@" + itoa(at+1000)}
}

func TestRenew(t *testing.T) {
	for _, s := range []script{
		{"a lease that stands is counted from now", []step{
			granted1(), {999, renew(1, 1000), "OK claimed fence=1 attempt=1 lease@1999"},
			{1998, claim("B"), "IN_FLIGHT claimed fence=1 attempt=1 lease@1999"},
		}},
		{"a lease is never made shorter", []step{
			granted1(), {1, renew(1, 100), "OK claimed fence=1 attempt=1 lease@1000"},
		}},
		{"a resend is answered as the first time", []step{
			granted1(), {1, renew(1, 2000), "OK claimed fence=1 attempt=1 lease@2001"},
			{1, renew(1, 2000), "OK claimed fence=1 attempt=1 lease@2001"},
		}},
		{"a lease that ends at this very instant is stale", []step{granted1(), {1000, renew(1, 1000), "STALE_FENCE"}}},
		{"another fence is stale", []step{granted1(), {1, renew(2, 1000), "STALE_FENCE"}, {1, renew(0, 1000), "STALE_FENCE"}}},
		{"an absent record is stale", []step{{0, renew(1, 1000), "STALE_FENCE"}}},
		{"a completed record is stale", []step{granted1(), completed1(1), {2, renew(1, 1000), "STALE_FENCE"}}},
		{"an unknown record is stale", []step{granted1(), failed1(1), {2, renew(1, 1000), "STALE_FENCE"}}},
		{"after a takeover the old fence is stale", []step{granted1(), takenOver(1000), {1001, renew(1, 1000), "STALE_FENCE"}}},
	} {
		s.run(t)
	}
}

func TestComplete(t *testing.T) {
	for _, s := range []script{
		{"retention is counted from completion", []step{granted1(), completed1(999)}},
		{"a lease that ended does not matter", []step{granted1(), completed1(5000)}},
		{"nor does it once a sweep noticed", []step{granted1(), lapsed1(1000), completed1(5000)}},
		{"a failed claim may complete after all", []step{granted1(block), failed1(1), completed1(2)}},
		{"a lapse that a claim noticed does not matter", []step{
			granted1(block), {1000, claim("B"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@11000"}, completed1(2000),
			{2001, claim("B"), "REPLAY completed fence=1 attempt=1 ends@12000 200:done"},
		}},
		{"unknown that ends at this very instant is stale", []step{
			granted1(), lapsed1(1000), {11_000, complete(1, "done"), "STALE_FENCE"},
		}},
		{"the same response is answered as the first time", []step{
			granted1(), completed1(1), {9, complete(1, "done"), "OK completed fence=1 attempt=1 ends@10001 200:done"},
		}},
		{"another response is stale", []step{granted1(), completed1(1), {9, complete(1, "other"), "STALE_FENCE"}}},
		{"the same response after retention is stale", []step{granted1(), completed1(1), {10_001, complete(1, "done"), "STALE_FENCE"}}},
		{"another fence is stale", []step{granted1(), {1, complete(2, "done"), "STALE_FENCE"}, {1, complete(0, "done"), "STALE_FENCE"}}},
		{"an absent record is stale", []step{{0, complete(1, "done"), "STALE_FENCE"}}},
		{"after a takeover the old fence is stale", []step{granted1(), takenOver(1000), {1001, complete(1, "done"), "STALE_FENCE"}}},
		{"after a release the fence is stale", []step{granted1(), {1, release(1), "OK"}, {2, complete(1, "done"), "STALE_FENCE"}}},
		{"after a release and another claim the fence is stale", []step{
			granted1(), {1, release(1), "OK"},
			{2, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@1002"}, {3, complete(1, "done"), "STALE_FENCE"},
		}},
		{"a body that was dropped is another response than an empty one", []step{
			granted1(), {1, complete(1, ""), "OK completed fence=1 attempt=1 ends@10001 200:"},
			{2, command(Kind_COMPLETE, "c", []change{fenced(1), answering(""), func(c *Command) { c.Response.BodyDropped = true }}), "STALE_FENCE"},
		}},
	} {
		s.run(t)
	}
}

func TestRelease(t *testing.T) {
	again := step{50, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@1050"}
	for _, s := range []script{
		{"the key is absent at once", []step{granted1(), {1, release(1), "OK"}, again}},
		{"a resend is answered as the first time", []step{granted1(), {1, release(1), "OK"}, {2, release(1), "OK"}, again}},
		{"a resend does not touch the next claim", []step{
			granted1(), {1, release(1), "OK"}, again, {51, release(1), "OK"},
			{52, claim("C"), "IN_FLIGHT claimed fence=2 attempt=1 lease@1050"},
		}},
		{"a lapsed claim is released", []step{
			granted1(block), {1000, release(1), "OK"}, {1000, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@2000"},
		}},
		{"an unknown record is released", []step{granted1(block), failed1(1), {2, release(1), "OK"}, again}},
		{"a fence that was taken over is done already", []step{
			granted1(), takenOver(1000), {1001, release(1), "OK"},
			{1002, claim("C"), "IN_FLIGHT claimed fence=2 attempt=2 lease@2000"},
		}},
		{"a grant that nobody is known to have", []step{granted1(attempt("me")), {1, release(1, ifUnanswered), "OK"}, again}},
		{"one that the same attempt has by now", []step{
			granted1(attempt("me")), {1, claim("B", attempt("me")), "GRANTED repeated claimed fence=1 attempt=1 lease@1000"},
			{2, release(1, ifUnanswered), "STALE_FENCE"}, {3, release(1), "OK"},
		}},
		{"one whose owner has failed", []step{granted1(block), failed1(1), {2, release(1, ifUnanswered), "STALE_FENCE"}}},
		{"one that was renewed", []step{
			granted1(), {1, renew(1, 1000), "OK claimed fence=1 attempt=1 lease@1001"}, {2, release(1, ifUnanswered), "STALE_FENCE"},
		}},
		{"a completed record is stale", []step{
			granted1(), completed1(1), {2, release(1), "STALE_FENCE"},
			{3, claim("B"), "REPLAY completed fence=1 attempt=1 ends@10001 200:done"},
		}},
		{"after retention it is done already", []step{granted1(), completed1(1), {10_001, release(1), "OK"}}},
		{"a fence never granted is stale", []step{granted1(), {1, release(2), "STALE_FENCE"}, {1, release(0), "STALE_FENCE"}}},
		{"a fence never granted is stale on an absent record too", []step{{0, release(1), "STALE_FENCE"}}},
	} {
		s.run(t)
	}
}

func TestFail(t *testing.T) {
	for _, s := range []script{
		{"the record is unknown for its ttl from now", []step{
			granted1(block), failed1(500), {501, claim("B"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@10500"},
		}},
		{"a lease that ended does not matter", []step{granted1(), failed1(1000)}},
		{"a resend is answered as the first time", []step{
			granted1(), failed1(1), {2, fail(1), "OK unknown fence=1 attempt=1 ends@10001"},
		}},
		{"after a noticed lapse it is as unknown as before", []step{
			granted1(block), lapsed1(1000), {1001, fail(1), "OK unknown fence=1 attempt=1 ends@11000"},
			{1002, claim("A", block), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@11000"},
		}},
		{"unknown that ends at this very instant is stale", []step{granted1(), failed1(1), {10_001, fail(1), "STALE_FENCE"}}},
		{"a completed record is stale", []step{granted1(), completed1(1), {2, fail(1), "STALE_FENCE"}}},
		{"another fence is stale", []step{granted1(), {1, fail(2), "STALE_FENCE"}, {1, fail(0), "STALE_FENCE"}}},
		{"an absent record is stale", []step{{0, fail(1), "STALE_FENCE"}}},
	} {
		s.run(t)
	}
}

func TestResolve(t *testing.T) {
	done := answering("done")
	for _, s := range []script{
		{"a response completes an unknown record", []step{
			granted1(block), failed1(1), {2, resolve("R", 1, done), "OK completed fence=1 attempt=1 ends@10002 200:done"},
			{3, claim("B"), "REPLAY completed fence=1 attempt=1 ends@10002 200:done"},
		}},
		{"a response completes a lapsed one that nobody noticed", []step{
			granted1(block), {1000, resolve("R", 1, done), "OK completed fence=1 attempt=1 ends@11000 200:done"},
		}},
		{"the same response is answered as the first time", []step{
			granted1(block), failed1(1), {2, resolve("R", 1, done), "OK completed fence=1 attempt=1 ends@10002 200:done"},
			{3, resolve("R", 1, done), "OK completed fence=1 attempt=1 ends@10002 200:done"},
			{3, resolve("S", 1, answering("other")), "STALE_FENCE"},
		}},
		{"retry makes the key absent", []step{
			granted1(block), failed1(1), {2, resolve("R", 1, retrying), "OK"},
			{3, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@1003"},
		}},
		{"retry of a lapsed claim that nobody noticed", []step{
			granted1(block), {1000, resolve("R", 1, retrying), "OK"}, {1000, read(), "NOT_FOUND"},
		}},
		{"a resend of retry is answered as the first time, for five minutes", []step{
			granted1(block), failed1(1), {2, resolve("R", 1, retrying), "OK"},
			{3, resolve("R", 1, retrying), "OK"}, {3, resolve("S", 1, retrying), "NOT_FOUND"},
			{2 + 299_999, resolve("R", 1, retrying), "OK"},
			{2 + 300_000, resolve("R", 1, retrying), "NOT_FOUND"},
		}},
		{"a resend of retry does not touch the next claim", []step{
			granted1(block), failed1(1), {2, resolve("R", 1, retrying), "OK"},
			{3, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@1003"}, {4, resolve("R", 1, retrying), "OK"},
			{5, claim("C"), "IN_FLIGHT claimed fence=2 attempt=1 lease@1003"},
		}},
		{"a claim that stands is in flight", []step{
			granted1(), {999, resolve("R", 1, retrying), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"},
			{999, resolve("R", 1, done), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"},
		}},
		{"an absent record is not found", []step{{0, resolve("R", 1, done), "NOT_FOUND"}, {0, resolve("R", 1, retrying), "NOT_FOUND"}}},
		{"unknown that ends at this very instant is not found", []step{
			granted1(), failed1(1), {10_001, resolve("R", 1, done), "NOT_FOUND"},
		}},
		{"retry of a completed record is stale", []step{granted1(), completed1(1), {2, resolve("R", 1, retrying), "STALE_FENCE"}}},
		{"another fence is stale", []step{
			granted1(block), failed1(1), {2, resolve("R", 2, done), "STALE_FENCE"}, {2, resolve("R", 0, retrying), "STALE_FENCE"},
		}},
		{"another fence is stale on a claim that stands too", []step{granted1(), {1, resolve("R", 2, done), "STALE_FENCE"}}},
	} {
		s.run(t)
	}
}

func TestForget(t *testing.T) {
	for _, s := range []script{
		{"a completed record is gone", []step{granted1(), completed1(1), {2, forget("F", 1), "OK"}, {2, read(), "NOT_FOUND"}}},
		{"an unknown record is gone", []step{granted1(), failed1(1), {2, forget("F", 1), "OK"}, {2, read(), "NOT_FOUND"}}},
		{"a lapsed one that nobody noticed is gone", []step{granted1(), {1000, forget("F", 1), "OK"}, {1000, read(), "NOT_FOUND"}}},
		{"a claim that stands is in flight", []step{granted1(), {999, forget("F", 1), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"}}},
		{"by force it is gone, and its fence stale", []step{
			granted1(), {1, forget("F", 1, forced), "OK"}, {2, complete(1, "done"), "STALE_FENCE"},
		}},
		{"a resend is answered as the first time, for five minutes", []step{
			granted1(), completed1(1), {2, forget("F", 1), "OK"}, {3, forget("F", 1), "OK"}, {3, forget("G", 1), "NOT_FOUND"},
			{2 + 299_999, forget("F", 1), "OK"}, {2 + 300_000, forget("F", 1), "NOT_FOUND"},
		}},
		{"a resend does not touch the next record", []step{
			granted1(), completed1(1), {2, forget("F", 1), "OK"},
			{3, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@1003"}, {4, forget("F", 1), "OK"},
			{5, claim("C"), "IN_FLIGHT claimed fence=2 attempt=1 lease@1003"},
		}},
		{"a request id may forget again once its memory is over", []step{
			granted1(), completed1(1), {2, forget("F", 1), "OK"},
			{300_002, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@301002"}, {300_003, forget("F", 2, forced), "OK"},
			{300_004, forget("F", 2, forced), "OK"}, {600_003, expire(9), "OK 1"},
		}},
		{"an absent record is not found", []step{{0, forget("F", 1), "NOT_FOUND"}}},
		{"retention that ends at this very instant is not found", []step{granted1(), completed1(1), {10_001, forget("F", 1), "NOT_FOUND"}}},
		{"another fence is stale", []step{granted1(), completed1(1), {2, forget("F", 2), "STALE_FENCE"}, {2, forget("F", 0, forced), "STALE_FENCE"}}},
		{"what a create made stays", []step{
			{0, create("A", "id1", unique("email", "x")), `CREATED completed fence=1 attempt=1 ends@10000 201:{"id":"id1"}`},
			{1, forget("F", 1), "OK"},
			{2, create("B", "id2", unique("email", "x")), "CREATED completed fence=2 attempt=1 ends@10002 409:" + duplicateBody("id1")},
		}},
	} {
		s.run(t)
	}
}

func TestACompletedRecordHasNotFailed(t *testing.T) {
	r := newRig(t)
	r.do(claim("A"))
	r.do(fail(1))
	if !r.lookup("k").Failed {
		t.Error("after FAIL it has not failed")
	}
	r.do(complete(1, "done"))
	if r.lookup("k").Failed {
		t.Error("after COMPLETE it has failed")
	}
}
