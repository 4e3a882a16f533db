package cluster

import (
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
type intake struct {
	settle func(stop <-chan struct{}) // waits until the log is on disk
	taken  chan raft.RPC
	closed chan struct{}
	once   sync.Once
	ended  sync.WaitGroup
}

func newIntake(from <-chan raft.RPC, settle func(stop <-chan struct{})) *intake {
	i := &intake{settle: settle, taken: make(chan raft.RPC), closed: make(chan struct{})}
	i.ended.Go(func() { i.run(from) })
	return i
}

func (i *intake) run(from <-chan raft.RPC) {
	for {
		select {
		case rpc := <-from:
			if sent, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				if err := checkEntries(sent); err != nil {
					rpc.Respond(&raft.AppendEntriesResponse{}, err)
					continue
				}
				boundCommit(sent)
			}
			i.settle(i.closed)
			select {
			case i.taken <- rpc:
			case <-i.closed:
				return
			}
		case <-i.closed:
			return
		}
	}
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

// close ends the passing on, and waits for that.
func (i *intake) close() {
	i.once.Do(func() { close(i.closed) })
	i.ended.Wait()
}
