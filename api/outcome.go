package api

import (
	"fmt"
	"net/http"

	"github.com/onced/onced/fsm"
	"github.com/onced/onced/wire"
)

// begin runs a claim or a create. With Prefer: wait it waits for one in
// flight, unless too many do.
func (s *server) begin(x *exchange, c *fsm.Command) (*fsm.Outcome, error) {
	wait := wire.PreferredWait(x.r.Header, s.cfg.MaxWait)
	if wait > 0 {
		defer s.waiters.Add(-1)
		if s.waiters.Add(1) > int64(s.cfg.MaxWaiters) {
			wait = 0
		}
	}
	o, err := s.cluster.Begin(x.r.Context(), c, wait)
	s.met.claimed(c.Surface, o, err, x.hungUp())
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if wait > 0 {
		x.Header().Set("Preference-Applied", wire.FormatWait(wait))
	}
	return o, nil
}

// sendRecord answers with a record as the Key API shows it.
func (x *exchange) sendRecord(r *fsm.Record) error {
	body, err := appendRecord(nil, x.namespace, x.key, r)
	if err != nil {
		return fmt.Errorf("show record: %w", err)
	}
	return x.sendJSON(http.StatusOK, body)
}
