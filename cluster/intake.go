package cluster

import (
	"io"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/onced/onced/cluster/logstore"
)

// intake passes on to raft what its peers send, less entries that were spoilt on
// their way. The log store would refuse those too, but that is too late: by then
// hashicorp/raft v1.7.3, appendEntries, may have deleted the entries of its own
// that conflict with them. When the store then fails, raft goes on to take the
// deleted ones for the end of its log, finds none of what it looks up there, and
// refuses whatever the leader sends from then on.
//
// It also has raft hear candidates that its own configuration does not have yet,
// and the leader before its snapshots, and has a candidate forget a leader before it
// is asked for its vote.
type intake struct {
	running func() *raft.Raft          // nil until it has started
	settle  func(stop <-chan struct{}) // waits until the log is on disk
	// reached is the last entry that the state of this node contains.
	reached func() (index, term uint64)
	taken   chan raft.RPC
	closed  chan struct{}
	once    sync.Once
	ended   sync.WaitGroup
}

func newIntake(from <-chan raft.RPC, settle func(stop <-chan struct{}), reached func() (index, term uint64), running func() *raft.Raft) *intake {
	i := &intake{running: running, settle: settle, reached: reached, taken: make(chan raft.RPC), closed: make(chan struct{})}
	i.ended.Go(func() { i.run(from) })
	return i
}

func (i *intake) run(from <-chan raft.RPC) {
	for {
		select {
		case rpc := <-from:
			switch sent := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				if err := checkEntries(sent); err != nil {
					rpc.Respond(&raft.AppendEntriesResponse{}, err)
					continue
				}
				heard := *sent
				boundCommit(&heard)
				i.skipContained(&heard)
				rpc.Command = &heard
			case *raft.InstallSnapshotRequest:
				if i.contains(sent) {
					go decline(rpc, sent) // which ends with the connection at the latest
					continue
				}
				if !i.pass(heartbeat(sent)) {
					return
				}
			case *raft.RequestPreVoteRequest:
				if !i.forgetLeader(sent.RPCHeader) {
					return
				}
				heard := *sent // the sender's own, where both are in one process
				heard.ID = i.standIn(sent.ID)
				rpc.Command = &heard
			case *raft.RequestVoteRequest:
				heard := *sent
				heard.ID = i.standIn(sent.ID)
				rpc.Command = &heard
			}
			if !i.pass(rpc) {
				return
			}
		case <-i.closed:
			return
		}
	}
}

// pass passes rpc on, and reports false once that has ended.
func (i *intake) pass(rpc raft.RPC) bool {
	i.settle(i.closed)
	select {
	case i.taken <- rpc:
		return true
	case <-i.closed:
		return false
	}
}

// heartbeat is one of the leader that sent a snapshot, to be heard before it. A candidate has
// to follow the leader of its term. hashicorp/raft v1.7.3, installSnapshot, notes who leads, and
// goes on as a candidate; and a candidate never forgets a leader. Once that one is
// lost, it refuses every pre-vote because it has a leader, and is refused for what
// its log does not have: two of three are healthy, and nobody ever leads.
func heartbeat(sent *raft.InstallSnapshotRequest) raft.RPC {
	return raft.RPC{
		Command:  &raft.AppendEntriesRequest{RPCHeader: sent.RPCHeader, Term: sent.Term},
		RespChan: make(chan raft.RPCResponse, 1), // which nobody waits for
	}
}

// forgetLeader has a candidate that takes somebody for its leader forget it, before it is
// asked for its vote. One that stands because it was told to take over, and loses to another
// candidate of the same term, hears that one as its leader and stays a candidate
// (hashicorp/raft v1.7.3, appendEntries). It has no timer that would have it forget: once the
// winner is lost, it refuses the third for ever, as under heartbeat. What it is passed
// is a heartbeat of its own term from nobody, by which it follows nobody.
func (i *intake) forgetLeader(header raft.RPCHeader) bool {
	r := i.running()
	if r == nil || r.State() != raft.Candidate {
		return true
	}
	if leader, _ := r.LeaderWithID(); leader == "" {
		return true
	}
	header.ID, header.Addr = nil, nil
	return i.pass(raft.RPC{
		Command:  &raft.AppendEntriesRequest{RPCHeader: header, Term: r.CurrentTerm()},
		RespChan: make(chan raft.RPCResponse, 1),
	})
}

func checkEntries(sent *raft.AppendEntriesRequest) error {
	for _, entry := range sent.Entries {
		if err := logstore.CheckReceived(entry); err != nil {
			return err
		}
	}
	return nil
}

// boundCommit has nothing committed but what the message itself vouches for, up
// to its last entry, as the rules of Raft have it. hashicorp/raft v1.7.3,
// appendEntries, commits up to the end of its own log. What stands there may be
// of another leader and was never committed: a message made before its leader's
// newest entries, and sent after they were committed elsewhere, would have it
// applied.
func boundCommit(sent *raft.AppendEntriesRequest) {
	last := sent.PrevLogEntry + uint64(len(sent.Entries))
	sent.LeaderCommitIndex = min(sent.LeaderCommitIndex, last)
}

// skipContained has a message begin where this node's state ends, if it begins
// before. What is contained was committed, and so is the same in the log of every
// leader; but it may be gone from this node's log, where raft would look for it, not find
// the place to go on from, and be sent a snapshot that is older than its state.
func (i *intake) skipContained(sent *raft.AppendEntriesRequest) {
	reached, term := i.reached()
	if isHeartbeat(sent) || sent.PrevLogEntry >= reached { // the former asks for no place
		return
	}
	skip := slices.IndexFunc(sent.Entries, func(e *raft.Log) bool { return e.Index > reached })
	if skip < 0 {
		skip = len(sent.Entries)
	}
	sent.PrevLogEntry, sent.PrevLogTerm, sent.Entries = reached, term, sent.Entries[skip:]
}

// contains reports whether a snapshot has nothing that this node's state has not.
// Raft would install it all the same, and the state would go back.
func (i *intake) contains(sent *raft.InstallSnapshotRequest) bool {
	reached, _ := i.reached()
	return sent.LastLogIndex <= reached
}

// decline answers that a snapshot is in the state, which it was before it came:
// its leader goes on behind it.
func decline(rpc raft.RPC, sent *raft.InstallSnapshotRequest) {
	_, err := io.Copy(io.Discard, rpc.Reader) // else what follows on the connection is not found (hashicorp/raft#212)
	rpc.Respond(&raft.InstallSnapshotResponse{Term: sent.Term, Success: err == nil}, err)
}

// standIn is the id under which raft hears a candidate: its own if raft's latest
// configuration has it as a voter, else that of one that is.
//
// By the rules of Raft (Ongaro's thesis, 4.1) a server votes for a candidate that
// is not in its own configuration: it may be the one that is behind.
// hashicorp/raft v1.7.3, requestVote and requestPreVote, refuses. If a node is
// added, the leader and the new node commit that, and the leader is lost before
// a third has the entry, then the new node is not elected without the third,
// which asks none but the leader: two of three are healthy, and nobody ever
// leads. Raft uses the id for that refusal alone: it votes for an address, and by
// the candidate's term and log. Who is no member any more does not come so far,
// for the peers refuse its connections.
func (i *intake) standIn(candidate []byte) []byte {
	r := i.running()
	if r == nil {
		return candidate
	}
	servers := r.GetConfiguration().Configuration().Servers
	voters := slices.DeleteFunc(slices.Clone(servers), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
	isCandidate := func(s raft.Server) bool { return string(s.ID) == string(candidate) }
	if len(voters) == 0 || slices.ContainsFunc(voters, isCandidate) {
		return candidate
	}
	return []byte(voters[0].ID)
}

// close ends the passing on, and waits for that.
func (i *intake) close() {
	i.once.Do(func() { close(i.closed) })
	i.ended.Wait()
}
