// Package gateway is a reverse proxy that makes any HTTP service idempotent,
// without a change in it: every keyed request on a covered route runs at most
// once at a time, and its response is recorded and replayed.
//
// Start reading at (*Gateway).ServeHTTP; a run is in run.go. What reaches the
// upstream carries the claim's fence and attempt (Onced-Fence, Onced-Attempt),
// so that an upstream that knows of them can refuse a stale or second attempt
// itself.
package gateway
