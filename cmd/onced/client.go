package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// target is how a command reaches a running node.
type target struct {
	Addr    []string      `env:"ONCED_ADDR" default:"127.0.0.1:8001" help:"HTTP address of a node; of several, the first that can be reached is asked." placeholder:"HOST:PORT"`
	Timeout time.Duration `default:"60s" help:"How long to wait for the answer."`
}

// problem is an error answer of the API.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string {
	kind := strings.TrimPrefix(p.Type, "urn:onced:")
	if kind == "" || kind == "about:blank" {
		return fmt.Sprintf("the node answered %d %s", p.Status, http.StatusText(p.Status))
	}
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	return fmt.Sprintf("%s: %s (%d)", kind, text, p.Status)
}

// httpClient goes to the named address and nowhere else: no proxy, and no
// redirect to another node.
var httpClient = &http.Client{
	Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// send asks the first node that can be reached. An answer other than 2xx is a
// *problem. The caller closes the body.
func (t *target) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	if len(t.Addr) == 0 {
		return nil, errors.New("--addr names no node: give host:port")
	}
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var unreached []error
	for _, addr := range t.Addr {
		res, err := sendTo(ctx, addr, method, path, encoded)
		// Only a request that was never sent goes to the next node: another
		// may have had its effect.
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil {
			unreached = append(unreached, fmt.Errorf("%s cannot be reached (%w)", addr, op.Err))
			continue
		}
		return res, err
	}
	return nil, fmt.Errorf("%w: is the node running? (--addr names another)", errors.Join(unreached...))
}

func sendTo(ctx context.Context, addr, method, path string, body []byte) (*http.Response, error) {
	if host, _, err := net.SplitHostPort(addr); err != nil || strings.ContainsAny(host, "/@?#") {
		return nil, fmt.Errorf("--addr %q is not host:port", addr)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--addr %q is not host:port", addr)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := httpClient.Do(req)
	if err != nil {
		return nil, askError(ctx, addr, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, readProblem(res)
}

// askError leaves out of err the method and URL that net/http puts before it.
func askError(ctx context.Context, addr string, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s gave no answer in time", addr)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("ask %s: %w", addr, err)
}

func readProblem(res *http.Response) error {
	p := &problem{}
	raw, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil || json.Unmarshal(raw, p) != nil {
		p = &problem{}
	}
	p.Status = res.StatusCode
	return p
}

// call sends a request and decodes the answer into out, if that is not nil.
func (t *target) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	res, err := t.send(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// show sends a request and prints the answer, a JSON value, indented.
func (t *target) show(s *session, method, path string, query url.Values, body any) error {
	var answer json.RawMessage
	if err := t.call(s.ctx, method, path, query, body, &answer); err != nil {
		return err
	}
	return printJSON(s.stdout, answer)
}

func printJSON(w io.Writer, value json.RawMessage) error {
	var out bytes.Buffer
	if err := json.Indent(&out, value, "", "  "); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}
