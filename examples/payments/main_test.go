package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// shop talks to a payment service.
type shop struct {
	t   *testing.T
	url string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	server := httptest.NewServer(new(ledger).routes())
	t.Cleanup(server.Close)
	return &shop{t, server.URL}
}

// wants sends a request and fails the test unless the answer is the one named.
func (s *shop) wants(method, body string, status int, answer string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/charges", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if res.StatusCode != status || !strings.Contains(string(got), answer) {
		s.t.Errorf("%s %s: %d %s; want %d with %s", method, body, res.StatusCode, got, status, answer)
	}
}

func TestARetryChargesTwice(t *testing.T) {
	s := newShop(t)
	s.wants("GET", "", 200, `{"charges":[]}`)
	s.wants("POST", `{"amount":4200,"card":"tok_visa"}`, 201, `{"id":"ch_1","amount":4200,"card":"tok_visa"}`)
	s.wants("POST", `{"amount":4200,"card":"tok_visa"}`, 201, `{"id":"ch_2","amount":4200,"card":"tok_visa"}`)
	s.wants("GET", "", 200, `{"charges":[{"id":"ch_1","amount":4200,"card":"tok_visa"},{"id":"ch_2","amount":4200,"card":"tok_visa"}]}`)
}

func TestWhatIsNoChargeIsRefusedAndChargesNothing(t *testing.T) {
	s := newShop(t)
	for name, tc := range map[string]struct{ body, want string }{
		"no body":        {"", "EOF"},
		"no JSON":        {"amount=4200", "invalid character"},
		"no amount":      {`{"card":"tok_visa"}`, "amount is 0"},
		"an amount owed": {`{"amount":-1,"card":"tok_visa"}`, "amount is -1"},
		"no card":        {`{"amount":1}`, "card is missing"},
		"both missing":   {`{}`, `amount is 0: give a positive number of cents\ncard is missing`},
		"an id":          {`{"id":"ch_1","amount":1,"card":"tok_visa"}`, "id is given by this service"},
		"a typing error": {`{"amuont":1,"card":"tok_visa"}`, "amuont"},
		"too much":       {`{"card":"` + strings.Repeat("x", maxBody) + `"}`, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			(&shop{t, s.url}).wants("POST", tc.body, 400, tc.want)
		})
	}
	s.wants("GET", "", 200, `{"charges":[]}`)
	s.wants("DELETE", "", 405, "")
}

func TestAStopIsNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, "127.0.0.1:0"); err != nil {
		t.Error(err)
	}
}

func TestATakenPortIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := run(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v; want one of a taken port", err)
	}
}
