package handler_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzStranger sends a running gateway any bytes that somebody without credentials may send. None
// of them may reach a service, and none may cause a panic, of which net/http would make no more
// than a line in the log.
func FuzzStranger(f *testing.F) {
	const (
		wrong  = "Authorization: Basic ZGVlcGdyYW06d3Jvbmc=\r\n"
		stream = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		secret = `{"metadata":{"extra":{"callback_secret":"wrong"}}}`
	)
	for _, seed := range []string{
		"POST /all HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"POST /all HTTP/1.1\r\nHost: x\r\n" + wrong +
			"Dg-Token: a\r\nDg-Token: b\r\nContent-Length: 2\r\n\r\n{}",
		"PUT /all?token=wrong&token=&%74oken=%zz HTTP/1.1\r\nHost: x\r\n" +
			"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: y\r\n\r\n",
		"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n" + secret,
		"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n" + secret +
			"\r\n0\r\n\r\n",
		"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n[{\"a\":\"\\u",
		"POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
		"GET /all HTTP/1.1\r\nHost: x\r\n" + stream + "\r\n\x81\x85\x00\x00\x00\x00hello",
		"GET /body HTTP/1.1\r\nHost: x\r\n" + stream + wrong + "\r\n\x88\x80\x00\x00\x00\x00",
		"POST /body HTTP/1.1\r\nHost: x\r\n" + stream + "Content-Length: 0\r\n\r\n",
		"POST /any HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" +
			"Content-Length: 0\r\n\r\n",
		"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
		"POST http://other/any HTTP/1.0\r\n\r\nPOST /any HTTP/1.1\r\nHost: x\r\n" +
			"Content-Length: 0\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	backend := newService(f, nil)
	const credentials = plainAuth + "dg_token 51f1ad0b-key\nquery_secret token 8d3fb7a0c2c94f0b\n"
	g := start(f, "handle /alive {\nrespond 200\n}\nhandle /all* {\n"+
		callback(backend.addr, credentials)+"}\nhandle /body* {\n"+
		callback(backend.addr, "max_body 1KiB\ncallback_secret 8d3fb7a0c2c94f0b")+"}\nhandle {\n"+
		callback(backend.addr, credentials+"callback_secret 8d3fb7a0c2c94f0b\nrequire any")+"}")
	logged, err := os.Open(g.log)
	require.NoError(f, err)
	f.Cleanup(func() { _ = logged.Close() })

	f.Fuzz(func(t *testing.T, sent []byte) {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, _ = conn.Write(sent)
		_ = conn.(*net.TCPConn).CloseWrite()
		_, err = io.Copy(io.Discard, conn)
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			require.Fail(t, "a connection that was shut is neither answered nor closed")
		}

		require.Zero(t, backend.accepted.Load(), "a stranger reached the service")
		lines, err := io.ReadAll(logged)
		require.NoError(t, err)
		require.False(t, bytes.Contains(lines, []byte("panic")), "%s", lines)
		require.Equal(t, 200, send(t, "GET", g.url+"/alive", nil, nil).StatusCode)
	})
}
