package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// canned starts a server that costs next to nothing: it answers each request
// of the given length with the same bytes.
func canned(b *testing.B, requestLength int, answer []byte) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		socket, err := listener.Accept()
		if err != nil {
			return
		}
		defer socket.Close()
		request := make([]byte, requestLength)
		for {
			if _, err := io.ReadFull(socket, request); err != nil {
				return
			}
			if _, err := socket.Write(answer); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return listener.Addr().String()
}

// BenchmarkExchange compares this client with net/http's on the exchange of a
// new key, both against a server that only moves bytes.
func BenchmarkExchange(b *testing.B) {
	o := &operator{material: newMaterial(1, byteRange{400, 400})}
	o.part = append(o.part, `{"idempotencyKey":"`...)
	o.part = o.material.appendKey(o.part, 1)
	o.part = append(o.part, `","data":`...)
	o.part = append(o.material.appendData(o.part, 1), '}')
	o.request = append(o.request, "POST /create"...)
	o.finishRequest()
	body := `{"id":"00000000-0000-4000-8000-000000000000","data":` + string(o.material.appendData(nil, 1)) + "}"
	answer := fmt.Appendf(nil, "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nIdempotency-Key: 0\r\nIdempotency-Ttl: 86400\r\n"+
		"Location: /resources/00000000-0000-4000-8000-000000000000\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s", len(body), body)

	b.Run("client=raw", func(b *testing.B) {
		b.ReportAllocs()
		c := newConn([]string{canned(b, len(o.request), answer)}, 0, patience)
		defer c.hangUp()
		for b.Loop() {
			if a, err := c.exchange(b.Context(), o.request); err != nil || string(a.body) != body {
				b.Fatal(string(a.body), err)
			}
		}
	})
	b.Run("client=net/http", func(b *testing.B) {
		b.ReportAllocs()
		var written bytes.Buffer
		template := newRequest(b, "127.0.0.1:1", o.part)
		if err := template.Write(&written); err != nil {
			b.Fatal(err)
		}
		// The transport asks for gzip; without, both requests would differ more.
		transport := &http.Transport{DisableCompression: true}
		defer transport.CloseIdleConnections()
		addr := canned(b, written.Len(), answer)
		template.URL.Host = addr
		template.Host = "127.0.0.1:1" // of the same length as what was measured
		for b.Loop() {
			request := template.Clone(b.Context())
			request.Body = io.NopCloser(bytes.NewReader(o.part))
			response, err := transport.RoundTrip(request)
			if err != nil {
				b.Fatal(err)
			}
			got, err := io.ReadAll(response.Body)
			if err = errors.Join(err, response.Body.Close()); err != nil || string(got) != body {
				b.Fatal(string(got), err)
			}
		}
	})
}

// newRequest is the request of net/http's client.
func newRequest(b *testing.B, host string, body []byte) *http.Request {
	b.Helper()
	request, err := http.NewRequest(http.MethodPost, "http://"+host+"/create", strings.NewReader(string(body)))
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return request
}
