package handler_test

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// A handmade backend does a WebSocket's opening handshake by hand, and can break
// rules that a library would keep.
type handmade struct {
	// Whether it is reached by TLS.
	secure bool

	// What it answers to a handshake whose Sec-WebSocket-Accept this is. Default:
	// that the handshake is accepted.
	answer func(accept string) string

	// What it does with a connection behind the handshake.
	behave func(conn net.Conn)

	// Whether it closes the connection when behave returns, and not only at the
	// end of the test.
	closes bool
}

// behaving runs a backend that accepts every handshake, and then behaves in a way.
func behaving(t *testing.T, secure bool, behave func(conn net.Conn)) (upstream string) {
	t.Helper()
	return handmade{secure: secure, behave: behave}.start(t)
}

// start runs the backend until the test ends, and returns its address as an
// upstream.
func (h handmade) start(t *testing.T) (upstream string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	upstream = listener.Addr().String()
	if h.secure {
		certFile, keyFile := certificate(t)
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		require.NoError(t, err)
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
		upstream = "https://" + upstream
	}
	if h.answer == nil {
		h.answer = func(accept string) string { return switching + accept + "\r\n\r\n" }
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); close(done) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go h.serve(conn, done)
		}
	}()
	return upstream
}

func (h handmade) serve(conn net.Conn, done <-chan struct{}) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, h.answer(acceptKey(r.Header.Get("Sec-Websocket-Key"))))
	h.behave(&behindHandshake{conn, in})
	if !h.closes {
		<-done
	}
}

// behindHandshake is a connection of which the reader may hold some bytes.
type behindHandshake struct {
	net.Conn
	in *bufio.Reader
}

func (c *behindHandshake) Read(p []byte) (int, error) { return c.in.Read(p) }

// switching is the beginning of an answer that accepts a handshake.
const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" +
	"Upgrade: websocket\r\nSec-WebSocket-Accept: "

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// opening is the beginning of a handshake, without its version.
const opening = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// ignore reads nothing and says nothing.
func ignore(net.Conn) {}

// swallow reads everything and says nothing, not even an answer to a ping.
func swallow(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
