package api

import (
	"crypto/sha256"
	_ "embed" // for the pages
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/onced/onced/wire"
)

//go:embed openapi.yaml
var openAPI []byte

//go:embed ui/index.html
var uiPage []byte

// uiPolicy lets the page run its own script and style, known by their hashes,
// and ask its own node; nothing else.
var uiPolicy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src " +
	inlineHash("<script>", "</script>") + "; style-src " + inlineHash("<style>", "</style>")

func inlineHash(begin, end string) string {
	_, rest, _ := strings.Cut(string(uiPage), begin)
	text, _, _ := strings.Cut(rest, end)
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// page is GET /ui/.
func (s *server) page(x *exchange) error {
	h := x.Header()
	h.Set("Content-Security-Policy", uiPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	return x.send(http.StatusOK, "text/html; charset=utf-8", uiPage)
}

// openAPI is GET /openapi.yaml.
func (s *server) openAPI(x *exchange) error {
	return x.send(http.StatusOK, "application/yaml", openAPI)
}

// livez is GET /livez: the process serves.
func (s *server) livez(x *exchange) error {
	return x.sendJSON(http.StatusOK, []byte(`{"status":"live"}`))
}

// readyz is GET /readyz.
func (s *server) readyz(x *exchange) error {
	if err := s.cluster.Ready(); err != nil {
		// No failure, and nothing for the log: it is asked all the time.
		wire.Unavailable.With(err.Error()).Write(x)
		return nil
	}
	return x.sendJSON(http.StatusOK, []byte(`{"status":"ready"}`))
}
