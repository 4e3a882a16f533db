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
	taken  chan raft.RPC
	closed chan struct{}
	once   sync.Once
	ended  sync.WaitGroup
}

func newIntake(from <-chan raft.RPC) *intake {
	i := &intake{taken: make(chan raft.RPC), closed: make(chan struct{})}
	i.ended.Go(func() { i.run(from) })
	return i
}

func (i *intake) run(from <-chan raft.RPC) {
	for {
		select {
		case rpc := <-from:
			if err := checkEntries(rpc); err != nil {
				rpc.Respond(&raft.AppendEntriesResponse{}, err)
				continue
			}
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

func checkEntries(rpc raft.RPC) error {
	sent, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok {
		return nil
	}
	for _, entry := range sent.Entries {
		if err := logstore.CheckReceived(entry); err != nil {
			return err
		}
	}
	return nil
}

// close ends the passing on, and waits for that.
func (i *intake) close() {
	i.once.Do(func() { close(i.closed) })
	i.ended.Wait()
}
