// Package client is the Go client of onced's Key API, and a middleware that
// makes any http.Handler idempotent through a cluster.
//
// A [Client] knows all nodes. A call goes to one, and on to the next if that
// one cannot be reached, breaks off or says that it cannot serve, until the
// context ends. That is safe: a claim carries an attempt id, by which it gets
// its own grant again, and every other write a fence.
//
// [Middleware] does for a handler what the gateway does for a service. It
// promises:
//
//   - A request with an Idempotency-Key runs at most once at a time, on all
//     servers of the cluster's clients together. Retries get the same status,
//     body and kept headers, and Idempotent-Replayed: true.
//   - The client is answered only once the outcome is recorded. If it cannot
//     be, or the handler panicked, ran out of time or wrote less than it
//     declared, that is 504 outcome-unknown; retries get 409 until an operator
//     resolves the key ([Block]), or a new attempt ([Retry]).
//   - A client that hangs up cancels nothing. An answer of 429 or 503 with
//     Retry-After says that nothing was done: the next attempt runs.
//   - A response over the limit, or one that cannot be kept as it is, such as
//     an event stream, goes to the first client only. Retries get 410
//     response-not-kept, and never run it again.
//
// It does not promise that the handler's effects happen exactly once: a server
// may die between the effect and its record, and a claim may lapse while the
// handler still works. Under Block no second attempt starts then. Where it
// matters, give the effect the fence of [ClaimFromContext] and refuse lower
// ones. Nor does it bound what the handler does beyond its context: one that
// ignores it goes on. Cookies, trailers and headers that are not on the
// cluster's list are not replayed. Requests without a key are not touched.
package client
