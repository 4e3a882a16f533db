// Command payments is a payment service for trying onced with. It does what
// most services do: every POST /charges charges the card, a retry as well.
//
//	POST /charges {"amount":4200,"card":"tok_visa"}  charges; amount in cents
//	GET  /charges                                    lists what was charged
//
// It knows nothing of idempotency keys, and keeps its charges in memory only.
// It listens on 127.0.0.1:9900, or on $PAYMENTS_ADDR.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	defaultAddr  = "127.0.0.1:9900"
	maxBody      = 64 << 10
	stopWithin   = 5 * time.Second
	headerWithin = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cmp.Or(os.Getenv("PAYMENTS_ADDR"), defaultAddr)); err != nil {
		log.Fatalln("payments:", err)
	}
}

// run serves on addr until ctx ends.
func run(ctx context.Context, addr string) error {
	server := &http.Server{Addr: addr, Handler: new(ledger).routes(), ReadHeaderTimeout: headerWithin}
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	<-served
	return nil
}

// charge is money taken from a card.
type charge struct {
	ID     string `json:"id"`
	Amount int64  `json:"amount"` // cents
	Card   string `json:"card"`
}

func (c charge) validate() error {
	var errs []error
	if c.Amount <= 0 {
		errs = append(errs, fmt.Errorf("amount is %d: give a positive number of cents", c.Amount))
	}
	if c.Card == "" {
		errs = append(errs, errors.New("card is missing"))
	}
	if c.ID != "" {
		errs = append(errs, errors.New("id is given by this service"))
	}
	return errors.Join(errs...)
}

// ledger is every charge that was made.
type ledger struct {
	mu      sync.Mutex
	charges []charge
}

func (l *ledger) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charges", l.charge)
	mux.HandleFunc("GET /charges", l.list)
	return mux
}

// charge charges a card, however often it has been asked to.
func (l *ledger) charge(w http.ResponseWriter, r *http.Request) {
	var c charge
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	if err := body.Decode(&c); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	if err := c.validate(); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	l.mu.Lock()
	c.ID = fmt.Sprintf("ch_%d", len(l.charges)+1)
	l.charges = append(l.charges, c)
	l.mu.Unlock()
	log.Printf("charged %d to %s: %s", c.Amount, c.Card, c.ID)
	answer(w, http.StatusCreated, c)
}

func (l *ledger) list(w http.ResponseWriter, _ *http.Request) {
	l.mu.Lock()
	made := append([]charge{}, l.charges...)
	l.mu.Unlock()
	answer(w, http.StatusOK, map[string][]charge{"charges": made})
}

// answer sends v as a line of JSON.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone is not told.
	_ = json.NewEncoder(w).Encode(v)
}
