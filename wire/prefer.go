package wire

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// PreferredWait returns how long the client would wait for an answer, by its
// Prefer headers (RFC 7240), in whole seconds and at most limit. A wait that is
// malformed is ignored, as is every one but the first.
func PreferredWait(h http.Header, limit time.Duration) time.Duration {
	for _, line := range h["Prefer"] {
		for line != "" {
			var preference string
			preference, line = cutUnquoted(line, ',')
			preference, _ = cutUnquoted(preference, ';')
			name, value, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.Trim(name, " \t"), "wait") {
				continue
			}
			return min(parseSeconds(strings.Trim(value, " \t")), limit).Truncate(time.Second)
		}
	}
	return 0
}

// FormatWait is the header Preference-Applied of a wait that was honoured.
func FormatWait(wait time.Duration) string {
	return "wait=" + strconv.Itoa(int(wait/time.Second))
}

// cutUnquoted cuts s at the first separator that is in no quoted string.
func cutUnquoted(s string, separator byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '\\' && quoted:
			i++
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// maxSeconds is more than any wait can be capped at.
const maxSeconds = 1 << 31

func parseSeconds(s string) time.Duration {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxSeconds {
		n = maxSeconds
	}
	return time.Duration(n) * time.Second
}
