package client

import "time"

// AvoidFor is avoidFor.
const AvoidFor = avoidFor

// SetClock gives c another clock. Only before its first call, or between two.
func (c *Client) SetClock(now func() time.Time) { c.now = now }
