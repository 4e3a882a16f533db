// Package fsm is the state machine of onced: what a replicated log of commands
// does to the keys, and nothing else.
//
// A Machine is pure. It has no clock, no chance, no network and no settings;
// whatever it must know travels in a Command, and the time is that of the log
// entry. The same entries, in whatever batches, leave the same state and give
// the same outcomes on every node. Start reading at Machine.Apply; the rule of
// the product is contest, in claim.go. DESIGN.md says why it is as it is.
package fsm
