package fsm

import (
	"testing"
)

func TestClaim(t *testing.T) {
	const first = "GRANTED claimed fence=1 attempt=1 lease@1000"
	for _, s := range []script{
		{"an absent key is granted", []step{{0, claim("A"), first}}},
		{"another key is granted beside it, with a higher fence", []step{
			{0, claim("A"), first},
			{0, claim("B", key("k2")), "GRANTED claimed fence=2 attempt=1 lease@1000"},
		}},
		{"the same key in another namespace is another key", []step{
			{0, claim("A"), first},
			{0, claim("B", namespace("ns2")), "GRANTED claimed fence=2 attempt=1 lease@1000"},
		}},
		{"the same request is answered as the first time", []step{
			{0, claim("A"), first},
			{10, claim("A"), first},
		}},
		{"another request finds it in flight", []step{
			{0, claim("A"), first},
			{999, claim("B"), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"},
		}},
		{"the same attempt gets the same grant", []step{
			{0, claim("A", attempt("me")), first},
			{999, claim("B", attempt("me")), "GRANTED repeated claimed fence=1 attempt=1 lease@1000"},
			{999, claim("B", attempt("me")), "GRANTED repeated claimed fence=1 attempt=1 lease@1000"},
			{999, claim("A", attempt("me")), first},
		}},
		{"no attempt id is nobody's", []step{
			{0, claim("A"), first},
			{1, claim("B"), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"},
		}},
		{"another attempt finds it in flight", []step{
			{0, claim("A", attempt("me")), first},
			{1, claim("B", attempt("you")), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"},
		}},
	} {
		s.run(t)
	}
}

func TestClaimOfWhatNoLongerStands(t *testing.T) {
	const first = "GRANTED claimed fence=1 attempt=1 lease@1000"
	for _, s := range []script{
		{"the lease ends at this very instant: another takes over", []step{
			{0, claim("A"), first},
			{1000, claim("B", leased(500)), "GRANTED claimed fence=2 attempt=2 lease@1500"},
			{1499, claim("C"), "IN_FLIGHT claimed fence=2 attempt=2 lease@1500"},
			{1500, claim("C"), "GRANTED claimed fence=3 attempt=3 lease@2500"},
		}},
		{"after its lease the same attempt counts as any other", []step{
			{0, claim("A", attempt("me"), block), first},
			{1000, claim("B", attempt("me"), block), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@11000"},
		}},
		{"the holder's policy counts, not the comer's", []step{
			{0, claim("A"), first},
			{1000, claim("B", block), "GRANTED claimed fence=2 attempt=2 lease@2000"},
			{2000, claim("C"), "OUTCOME_UNKNOWN unknown fence=2 attempt=2 ends@12000"},
		}},
		{"a lapse that a claim notices is kept for its ttl from then", []step{
			{0, claim("A", block), first},
			{5000, claim("B"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@15000"},
			{6000, claim("C"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@15000"},
			{14999, claim("C"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@15000"},
		}},
		{"unknown ends at this very instant: the claim is a first one", []step{
			{0, claim("A", block), first},
			{1000, claim("B"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@11000"},
			{11000, claim("C"), "GRANTED claimed fence=2 attempt=1 lease@12000"},
		}},
		{"a lapsed grant is given afresh to its own request, whatever the policy", []step{
			{0, claim("A", block), first},
			{1000, claim("A", block), "GRANTED claimed fence=2 attempt=2 lease@2000"},
			{1001, claim("A", block), "GRANTED claimed fence=2 attempt=2 lease@2000"},
		}},
		{"a lapse that was noticed changes nothing in that", []step{
			{0, claim("A", block), first},
			{1000, expire(9), "OK 1"},
			{1001, claim("A", block), "GRANTED claimed fence=2 attempt=2 lease@2001"},
		}},
		{"a grant that another request of the attempt got too is not given afresh", []step{
			{0, claim("A", block, attempt("me")), first},
			{10, claim("B", block, attempt("me")), "GRANTED repeated claimed fence=1 attempt=1 lease@1000"},
			{1000, claim("A", block, attempt("me")), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@11000"},
		}},
		{"a grant that its holder renewed is not given afresh", []step{
			{0, claim("A", block), first},
			{10, renew(1, 1000), "OK claimed fence=1 attempt=1 lease@1010"},
			{1010, claim("A", block), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@11010"},
		}},
		{"a failed grant is not given afresh to its own request", []step{
			{0, claim("A", block), first},
			{10, fail(1), "OK unknown fence=1 attempt=1 ends@10010"},
			{11, claim("A", block), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@10010"},
			{1000, claim("A", block), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@10010"},
		}},
		{"retry takes over a failed claim at once", []step{
			{0, claim("A"), first},
			{10, fail(1), "OK unknown fence=1 attempt=1 ends@10010"},
			{11, claim("B"), "GRANTED claimed fence=2 attempt=2 lease@1011"},
		}},
		{"a lost request finds the one that took over in flight", []step{
			{0, claim("A"), first},
			{1000, claim("B"), "GRANTED claimed fence=2 attempt=2 lease@2000"},
			{1001, claim("A"), "IN_FLIGHT claimed fence=2 attempt=2 lease@2000"},
		}},
		{"a completed key is replayed", []step{
			{0, claim("A"), first},
			{5, complete(1, "done"), "OK completed fence=1 attempt=1 ends@10005 200:done"},
			{6, claim("B"), "REPLAY completed fence=1 attempt=1 ends@10005 200:done"},
			{6, claim("A"), "REPLAY completed fence=1 attempt=1 ends@10005 200:done"},
			{10004, claim("B"), "REPLAY completed fence=1 attempt=1 ends@10005 200:done"},
		}},
		{"retention ends at this very instant: the claim is a first one", []step{
			{0, claim("A"), first},
			{5, complete(1, "done"), "OK completed fence=1 attempt=1 ends@10005 200:done"},
			{10005, claim("B"), "GRANTED claimed fence=2 attempt=1 lease@11005"},
		}},
		{"ended comes before the fingerprint", []step{
			{0, claim("A"), first},
			{5, complete(1, "done"), "OK completed fence=1 attempt=1 ends@10005 200:done"},
			{10005, claim("B", fingerprint("other")), "GRANTED claimed fence=2 attempt=1 lease@11005"},
		}},
	} {
		s.run(t)
	}
}

func TestFingerprintIsComparedFirst(t *testing.T) {
	const first = "GRANTED claimed fence=1 attempt=1 lease@1000"
	other := fingerprint("other")
	for _, s := range []script{
		{"before in flight", []step{{0, claim("A"), first}, {1, claim("B", other), "KEY_REUSED"}}},
		{"before the request id", []step{{0, claim("A"), first}, {1, claim("A", other), "KEY_REUSED"}}},
		{"before the attempt id", []step{
			{0, claim("A", attempt("me")), first},
			{1, claim("B", attempt("me"), other), "KEY_REUSED"},
		}},
		{"before the lapse, which it does not notice", []step{
			{0, claim("A", block), first},
			{5000, claim("B", other), "KEY_REUSED"},
			{5001, claim("B"), "OUTCOME_UNKNOWN unknown fence=1 attempt=1 ends@15001"},
		}},
		{"before replay", []step{
			{0, claim("A"), first},
			{5, complete(1, "done"), "OK completed fence=1 attempt=1 ends@10005 200:done"},
			{6, claim("B", other), "KEY_REUSED"},
		}},
		{"an empty one is a value like others", []step{
			{0, claim("A", fingerprint("")), first},
			{1, claim("B", fingerprint("")), "IN_FLIGHT claimed fence=1 attempt=1 lease@1000"},
			{1, claim("B"), "KEY_REUSED"},
		}},
		{"it names its surface", []step{
			{0, claim("A"), first},
			{1, claim("B", surface(Surface_SURFACE_GATEWAY)), "KEY_REUSED"},
			{1, create("C", "id"), "KEY_REUSED"},
		}},
	} {
		s.run(t)
	}
}

func TestTakeoverStoresTheNewClaimsTerms(t *testing.T) {
	r := newRig(t)
	r.do(claim("A", attempt("me"), ttl(10_000)))
	r.at(1000).do(claim("B", attempt("you"), ttl(20_000), leased(3000), block))
	got := r.lookup("k")
	if got.AttemptId != "you" || string(got.RequestId) != string(requestID("B")) || got.Ttl != 20_000 ||
		got.Lease != 3000 || got.OnLapse != OnLapse_BLOCK || got.CreatedAt != start {
		t.Errorf("the record after the takeover is %v", got)
	}
}
