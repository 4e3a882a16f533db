package peer

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// sayAgain is how long the same thing about the same peer is not repeated.
	sayAgain = 10 * time.Second
	// maxSayings bounds what is remembered: what strangers claim to be is theirs
	// to choose.
	maxSayings = 1024
)

// sayings remembers what was logged, so that a peer that tries again and again
// does not fill the log.
type sayings struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func newSayings() *sayings { return &sayings{last: map[string]time.Time{}} }

// due reports whether what may be said now, and counts it as said.
func (s *sayings) due(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if last, ok := s.last[what]; ok && now.Sub(last) < sayAgain {
		return false
	}
	if len(s.last) >= maxSayings {
		for old, last := range s.last {
			if now.Sub(last) >= sayAgain {
				delete(s.last, old)
			}
		}
		if len(s.last) >= maxSayings {
			return false
		}
	}
	s.last[what] = now
	return true
}

// level is how loud a refusal is: what every start goes through is no warning.
func (c Code) level() slog.Level {
	switch c {
	case CodeNotReady:
		return slog.LevelDebug
	case CodeNotFormed:
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// say logs one line, at most every 10 s for each what.
func (t *Transport) say(level slog.Level, what, message string, args ...any) {
	if t.told.due(what) {
		t.log.Log(context.Background(), level, message, args...)
	}
}
