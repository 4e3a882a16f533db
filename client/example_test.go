package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/onced/onced/client"
)

// exampleNodes are the URLs of a cluster's nodes: the examples run against one
// that the tests start.
func exampleNodes() []string { return shared() }

// A handler that charges a card runs once, however often the request is sent.
func ExampleMiddleware() {
	c, err := client.New(client.Config{Nodes: exampleNodes()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.CloseIdleConnections()

	charges := 0
	pay := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		charges++
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "charge %d", charges)
	})
	idempotent := client.Middleware(c, client.MiddlewareConfig{KeyRequired: true, TTL: time.Hour})
	server := httptest.NewServer(idempotent(pay))
	defer server.Close()

	for range 3 {
		req, err := http.NewRequest(http.MethodPost, server.URL+"/payments", strings.NewReader(`{"amount":5}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set("Idempotency-Key", "order-7")
		resp, err := server.Client().Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%d %s, replayed: %t\n", resp.StatusCode, body, resp.Header.Get("Idempotent-Replayed") == "true")
	}
	// Output:
	// 201 charge 1, replayed: false
	// 201 charge 1, replayed: true
	// 201 charge 1, replayed: true
}

// A worker claims a job, does it, and records what came out. The next one to
// claim the same job gets the record.
func Example_claim() {
	c, err := client.New(client.Config{Nodes: exampleNodes()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.CloseIdleConnections()

	work := func(ctx context.Context, job string) (string, error) {
		result, err := c.Claim(ctx, job, client.ClaimOptions{Lease: 30 * time.Second, OnLapse: client.Block})
		if err != nil {
			return "", err
		}
		if result.Record != nil {
			return "done before: " + string(result.Record.Response.Body), nil
		}
		outcome := "sent the mail" // the work itself
		_, err = c.Complete(ctx, job, result.Claim.Fence, &client.Response{Status: http.StatusOK, Body: []byte(outcome)})
		return outcome, err
	}

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range 2 {
		fmt.Println(work(ctx, "mail-42"))
	}
	// Output:
	// sent the mail <nil>
	// done before: sent the mail <nil>
}

// What went wrong is told by errors.Is.
func ExampleError() {
	c, err := client.New(client.Config{Nodes: exampleNodes()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.CloseIdleConnections()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := c.Claim(ctx, "job-1", client.ClaimOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	_, err = c.Claim(ctx, "job-1", client.ClaimOptions{})
	var e *client.Error
	if errors.As(err, &e) {
		fmt.Println(e.Slug(), e.Status, e.Retryable)
	}
	fmt.Println(errors.Is(err, client.ErrInProgress))
	// Output:
	// in-progress 409 true
	// true
}

// A handler gives the fence of its claim to what it changes, which can so
// refuse a run that was overtaken.
func ExampleClaimFromContext() {
	c, err := client.New(client.Config{Nodes: exampleNodes()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.CloseIdleConnections()

	h := client.Middleware(c, client.MiddlewareConfig{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if claim, ok := client.ClaimFromContext(r.Context()); ok {
			fmt.Fprintf(w, "attempt %d, fenced: %t", claim.Attempt, claim.Fence > 0)
		}
	}))
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req.Header.Set("Idempotency-Key", "fence-1")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	fmt.Println(w.Body)
	// Output:
	// attempt 1, fenced: true
}
