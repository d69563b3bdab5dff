package handler_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

func TestStreamIsBridged(t *testing.T) {
	plain := newEcho(t)
	secure := newEcho(t, echoOptions{tls: true})
	socket := filepath.Join(t.TempDir(), "backend.sock")
	proxyToSocket(t, socket, plain.addr)
	cert, key := certificate(t)

	const insecure = "proxy {\ntransport http {\ntls_insecure_skip_verify\n}\n}"
	for name, test := range map[string]struct {
		site    string // before the directive
		stream  string
		options options
	}{
		"plainly":             {"", "stream " + plain.addr, options{}},
		"with the access log": {"log", "stream " + plain.addr, options{}},
		"to a TLS backend": {"",
			"stream https://" + secure.addr + " {\n" + insecure + "\n}", options{}},
		"to a TLS backend, by its transport": {"",
			"stream " + secure.addr +
				" {\nproxy {\ntransport http {\ntls\ntls_insecure_skip_verify\n}\n}\n}", options{}},
		"to a Unix socket": {"", "stream unix/" + socket, options{}},
		"from a TLS listener": {"tls " + cert + " " + key, "stream " + plain.addr,
			options{site: "https://localhost:PORT"}},
		"TLS on both legs, logged": {"log\ntls " + cert + " " + key,
			"stream https://" + secure.addr + " {\n" + insecure + "\n}",
			options{site: "https://localhost:PORT"}},
		"by net/http's transport": {"",
			"stream " + plain.addr + " {\nproxy {\ntransport http {\nread_buffer 8KiB\n}\n}\n}", options{}},
		"among other handlers": {
			"log\nencode gzip\nrequest_body {\nmax_size 1MB\n}\nheader X-Front yes",
			"stream " + plain.addr, options{global: "metrics"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, test.site+"\n"+callback("", plainAuth+test.stream), test.options)
			dialer := &websocket.Dialer{
				HandshakeTimeout: patience,
				TLSClientConfig:  &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"},
			}
			url := "ws://" + g.addr
			if test.options.site != "" {
				url = "wss://" + g.addr
			}
			header := withPassword()
			if test.options.site != "" {
				header.Set("Host", "localhost:"+strconv.Itoa(g.port))
			}
			conn, res, err := dialer.Dial(url+"/live?a=1-0123456789abcd", header)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NotContains(t, res.Header, "Sec-Websocket-Extensions")
			backend := plain
			if strings.Contains(test.stream, secure.addr) {
				backend = secure
			}
			server := backend.next(t)
			require.Equal(t, "/live?a=1-0123456789abcd", server.handshake.RequestURI)
			require.NotContains(t, server.handshake.Header, "Authorization")

			talk(t, conn, "a first message")
			talk(t, conn, strings.Repeat("long ", 50_000))
			require.NoError(t, conn.WriteControl(websocket.CloseMessage,
				websocket.FormatCloseMessage(4321, "enough"), time.Now().Add(patience)))
			requireClose(t, conn, 4321)
			require.Equal(t, &websocket.CloseError{Code: 4321, Text: "enough"}, server.end(t))
			require.NoError(t, conn.Close())

			if strings.HasPrefix(test.site, "log") {
				line := g.waitForLog("the handshake", func(line map[string]any) bool {
					return line["msg"] == "handled request"
				})
				require.EqualValues(t, 101, line["status"])
			}
			upstream := backend.addr
			if strings.Contains(test.stream, socket) {
				upstream = socket
			}
			line := g.waitForEnd(upstream)
			require.Equal(t, "deepgram_callback", line["logger"])
			require.Equal(t, "info", line["level"])
			require.Equal(t, "closed", line["reason"])
			require.Equal(t, "caller", line["ended_by"])
			require.EqualValues(t, 4321, line["close_code"])
			require.Equal(t, "enough", line["close_text"])
			require.Equal(t, "/live", line["path"])
			require.Equal(t, "127.0.0.1", line["client_ip"])
			require.EqualValues(t, 2, line["messages_from_caller"])
			require.EqualValues(t, 2, line["messages_from_backend"])
			require.EqualValues(t, 250_015, line["bytes_from_caller"])
			require.EqualValues(t, 250_015, line["bytes_from_backend"])
			require.NotEmpty(t, line["upstream"])
			require.Positive(t, line["duration"])
		})
	}
}

// proxyToSocket forwards connections to a Unix socket to a TCP address.
func proxyToSocket(t *testing.T, socket, addr string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", addr)
			if err != nil {
				_ = from.Close()
				continue
			}
			join := func(a, b net.Conn) {
				_, _ = io.Copy(a, b)
				_ = a.Close()
				_ = b.Close()
			}
			go join(from, to)
			go join(to, from)
		}
	}()
}

// certificate makes a certificate for localhost, and returns its files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile,
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	return certFile, keyFile
}

func TestBatchAndStreamsHaveTheirOwnUpstreams(t *testing.T) {
	batch, live := newService(t, nil), newEcho(t)
	g := start(t, callback(batch.addr, "anonymous\nstream "+live.addr))
	require.Equal(t, 200, send(t, "POST", g.url, strings.NewReader("{}"), nil).StatusCode)
	require.Equal(t, "{}", string(batch.next(t).body))
	talk(t, open(t, g, nil), "hello")
	require.Empty(t, batch.requests)
}

func TestStreamsGoWhereBatchGoes(t *testing.T) {
	for name, stream := range map[string]string{
		"by default":              "",
		"with limits":             "stream {\nmax_streams 3\n}",
		"with options of a proxy": "stream {\nproxy {\nheader_up X-Live yes\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			live := newEcho(t)
			g := start(t, callback(live.addr, "anonymous\n"+stream))
			talk(t, open(t, g, nil), "hello")
			server := live.next(t)
			if strings.Contains(stream, "X-Live") {
				require.Equal(t, "yes", server.handshake.Header.Get("X-Live"))
			}
		})
	}
}

func TestStreamsTakeTheTLSOfTheirUpstreamsOver(t *testing.T) {
	live := newEcho(t, echoOptions{tls: true})
	g := start(t,
		callback("",
			"anonymous\nrelay https://"+live.addr+" {\ntransport http {\ntls_insecure_skip_verify\n}\n}\n"+
				"stream {\nproxy {\ntransport http {\ndial_timeout 1s\n}\n}\n}"))
	talk(t, open(t, g, nil), "hello")
}

func TestSubprotocolIsTheBackendsChoice(t *testing.T) {
	for name, test := range map[string]struct {
		backend, offered []string
		want             string
	}{
		"the second offered":  {[]string{"two"}, []string{"one", "two"}, "two"},
		"none of the offered": {[]string{"three"}, []string{"one"}, ""},
		"none offered":        {[]string{"three"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			live := newEcho(t, echoOptions{upgrader: websocket.Upgrader{Subprotocols: test.backend}})
			g := start(t, callback(live.addr, "anonymous"))
			dialer := &websocket.Dialer{Subprotocols: test.offered}
			conn, _, err := dialer.Dial("ws://"+g.addr, nil)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.Equal(t, test.want, conn.Subprotocol())
			talk(t, conn, "hello")
		})
	}
}

func TestHeadersOfTheHandshakeGoBothWays(t *testing.T) {
	live := newEcho(t, echoOptions{
		header: http.Header{"X-Backend": {"yes"}, "Set-Cookie": {"a=b", "c=d"}},
	})
	g := start(t,
		callback(live.addr, "dg_token key\nrelay {\nheader_up X-Up up\nheader_down X-Down down\n}"))
	conn, res, err := dial(g, http.Header{"Dg-Token": {"key"}, "X-Sender": {"yes"}})
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.Equal(t, "yes", res.Header.Get("X-Backend"))
	require.Equal(t, "down", res.Header.Get("X-Down"))
	require.Equal(t, []string{"a=b", "c=d"}, res.Header["Set-Cookie"])
	sent := live.next(t).handshake.Header
	require.Equal(t, "yes", sent.Get("X-Sender"))
	require.Equal(t, "up", sent.Get("X-Up"))
	require.Equal(t, "key", sent.Get("Dg-Token"))
	require.NotContains(t, sent, "Sec-Websocket-Extensions")
}

func TestExtensionsAreNotNegotiated(t *testing.T) {
	live := newEcho(t, echoOptions{upgrader: websocket.Upgrader{EnableCompression: true}})
	g := start(t, callback(live.addr, "anonymous"))
	dialer := &websocket.Dialer{EnableCompression: true}
	conn, res, err := dialer.Dial("ws://"+g.addr, nil)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NotContains(t, res.Header, "Sec-Websocket-Extensions")
	require.NotContains(t, live.next(t).handshake.Header, "Sec-Websocket-Extensions")
	talk(t, conn, strings.Repeat("compressible ", 1000))
}

func TestBackendThatBreaksTheHandshakesRules(t *testing.T) {
	for name, answer := range map[string]func(accept string) string{
		"wrong accept": func(string) string { return switching + "bm90IGl0\r\n\r\n" },
		"no accept": func(string) string {
			return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
		},
		"unoffered subprotocol": func(a string) string {
			return switching + a + "\r\nSec-WebSocket-Protocol: other\r\n\r\n"
		},
		"two subprotocols": func(a string) string {
			return switching + a + "\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
		},
		"extension": func(a string) string {
			return switching + a + "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
		},
		"another protocol": func(string) string {
			return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
		},
		"no upgrade": func(string) string { return "HTTP/1.1 101 Switching Protocols\r\n\r\n" },
		"not HTTP":   func(string) string { return "SSH-2.0-OpenSSH\r\n" },
		"nothing":    func(string) string { return "" },
	} {
		for transport, block := range map[string]string{
			"own":        "",
			"net/http's": "relay {\ntransport http {\nread_buffer 8KiB\n}\n}",
		} {
			t.Run(name+", "+transport, func(t *testing.T) {
				backend := handmade{answer: answer, behave: swallow, closes: true}
				if name == "nothing" {
					backend.behave = ignore
				}
				g := start(t, callback(backend.start(t), "anonymous\n"+block))
				got := refusedStream(t, g, http.Header{"Sec-WebSocket-Protocol": {"chat"}})
				require.Equal(t, 502, got.StatusCode)
				require.NotContains(t, got.Header, "Sec-Websocket-Accept")
			})
		}
	}
}

func TestBackendThatRefusesTheHandshake(t *testing.T) {
	backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Reason", "full")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "no more streams")
	})
	g := start(t, callback(backend.addr, "anonymous"))
	got := refusedStream(t, g, nil)
	require.Equal(t, 403, got.StatusCode)
	require.Equal(t, "no more streams", got.body)
	require.Equal(t, "full", got.Header.Get("X-Reason"))
}

func TestBackendThatIsDead(t *testing.T) {
	g := start(t, callback(deadAddr(t), "anonymous"))
	require.Equal(t, 502, refusedStream(t, g, nil).StatusCode)

	live := newEcho(t)
	g.reload(callback(deadAddr(t)+" "+live.addr,
		"anonymous\nrelay {\nlb_policy first\nlb_retries 1\nfail_duration 1h\n}"))
	talk(t, open(t, g, nil), "hello")
}

func TestHandshakesThatAreRefused(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, plainAuth))
	auth := "Authorization: " + withPassword().Get("Authorization") + "\r\n"
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	const version = "Sec-WebSocket-Version: 13\r\n"
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for name, test := range map[string]struct {
		request string
		want    int
		header  string
	}{
		"nothing wrong": {"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + version + key, 101,
			"Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		"no credentials": {"GET / HTTP/1.1\r\nHost: x\r\n" + upgrade + version + key, 401,
			`Www-Authenticate: Basic realm="restricted", charset="UTF-8"`},
		"POST": {
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + auth + upgrade + version + key, 405,
			"Allow: GET",
		},
		"another version": {
			"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + "Sec-WebSocket-Version: 8\r\n" + key,
			426, "Sec-Websocket-Version: 13",
		},
		"no version": {"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + key, 426, "Upgrade: websocket"},
		"no key":     {"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + version, 400, ""},
		"a key of 15 bytes": {"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + version +
			"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1\r\n", 400, ""},
		"a key not in base64": {"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + version +
			"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n", 400, ""},
		"two keys": {"GET / HTTP/1.1\r\nHost: x\r\n" + auth + upgrade + version + key + key, 400, ""},
		"a body": {
			"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n" + auth + upgrade + version + key +
				"\r\nbody", 400, "",
		},
		"a chunked body": {
			"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + auth + upgrade + version +
				key + "\r\n0\r\n", 400, "",
		},
		"HTTP/1.0": {"GET / HTTP/1.0\r\nHost: x\r\n" + auth + upgrade + version + key, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = io.WriteString(conn, test.request+"\r\n")
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, test.want, res.StatusCode)
			if name, value, found := strings.Cut(test.header, ": "); found {
				require.Contains(t, res.Header[name], value)
			}
		})
	}
	require.LessOrEqual(t, len(live.conns), 1, "a refused handshake reached the backend")
}

func TestBytesBehindAHandshakeAreNotLost(t *testing.T) {
	frame := func(payload string, masked bool) string {
		if masked { // with a key of zeros
			return "\x81" + string([]byte{0x80 | byte(len(payload))}) + "\x00\x00\x00\x00" + payload
		}
		return "\x81" + string([]byte{byte(len(payload))}) + payload
	}
	for transport, block := range map[string]string{
		"own":        "",
		"net/http's": "relay {\ntransport http {\nread_buffer 8KiB\n}\n}",
	} {
		t.Run(transport, func(t *testing.T) {
			got := make(chan string, 1)
			upstream := handmade{
				answer: func(accept string) string {
					return switching + accept + "\r\n\r\n" + frame("from the backend", false)
				},
				behave: func(conn net.Conn) {
					early := make([]byte, len(frame("from the caller", true)))
					_, _ = io.ReadFull(conn, early)
					got <- string(early)
				},
				closes: true,
			}.start(t)
			g := start(t, callback(upstream, "anonymous\n"+block))
			conn, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = io.WriteString(conn,
				opening+"Sec-WebSocket-Version: 13\r\n\r\n"+frame("from the caller", true))
			require.NoError(t, err)
			reader := bufio.NewReader(conn)
			res, err := http.ReadResponse(reader, nil)
			require.NoError(t, err)
			require.Equal(t, 101, res.StatusCode)
			early := make([]byte, len(frame("from the backend", false)))
			_, err = io.ReadFull(reader, early)
			require.NoError(t, err)
			require.Equal(t, frame("from the backend", false), string(early))
			require.Equal(t, frame("from the caller", true), <-got)
		})
	}
}

func TestStreamsAreOff(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "anonymous\nmethods GET POST\nstream off"))
	got := refusedStream(t, g, nil)
	require.Equal(t, 405, got.StatusCode)
	require.Equal(t, "GET, POST", got.Header.Get("Allow"))
	require.Zero(t, backend.accepted.Load())
}

func TestMaxStreams(t *testing.T) {
	live := newEcho(t)
	site := callback(live.addr, "anonymous\nstream {\nmax_streams 2\n}")
	g := start(t, site)
	first, second := open(t, g, nil), open(t, g, nil)
	full := refusedStream(t, g, nil)
	require.Equal(t, 503, full.StatusCode)
	require.NotEmpty(t, full.Header.Get("Retry-After"))

	g.reload(site)
	require.Equal(t, 503, refusedStream(t, g, nil).StatusCode, "a reload forgot the live streams")
	talk(t, second, "still here")

	require.NoError(t, first.Close())
	require.Eventually(t, func() bool {
		conn, _, err := dial(g, nil)
		if err != nil {
			return false
		}
		t.Cleanup(func() { _ = conn.Close() })
		return true
	}, patience, 5*time.Millisecond, "the place of a stream that ended stays taken")
	require.Equal(t, 503, refusedStream(t, g, nil).StatusCode)
}

func TestFailedHandshakesTakeNoPlace(t *testing.T) {
	backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	})
	g := start(t, callback(backend.addr, "anonymous\nstream {\nmax_streams 1\n}"))
	for range 3 {
		require.Equal(t, 403, refusedStream(t, g, nil).StatusCode)
	}
}

func TestCredentialsOfAStream(t *testing.T) {
	live := newEcho(t)
	message := func(secret string) string {
		return `{"metadata":{"extra":{"callback_secret":"` + secret + `"}}}`
	}

	t.Run("in the handshake", func(t *testing.T) {
		g := start(t, callback(live.addr, plainAuth+"dg_token key\nquery_secret a 1-0123456789abcd"))
		header := withPassword()
		require.Equal(t, 401, refusedStream(t, g, header).StatusCode)
		header.Set("dg-token", "key")
		talk(t, open(t, g, header), "hello")
		require.Equal(t, "/live", live.next(t).handshake.RequestURI)
	})
	t.Run("in the first message with metadata", func(t *testing.T) {
		g := start(t, callback(live.addr, plainAuth+"callback_secret right-0123456789ab"))
		conn := open(t, g, withPassword())
		server := live.next(t)
		held := `{"type":"SpeechStarted","channel":[0],"timestamp":1.5}`
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(held)))
		require.NoError(t, conn.WriteControl(websocket.PingMessage, []byte("are you there"),
			time.Now().Add(patience)))
		ponged := make(chan struct{})
		var once sync.Once // the ping reaches the backend as well, later
		conn.SetPongHandler(func(string) error { once.Do(func() { close(ponged) }); return nil })
		received := make(chan string, 10)
		go func() {
			for {
				_, m, err := conn.ReadMessage()
				if err != nil {
					return
				}
				received <- string(m)
			}
		}()
		<-ponged // so the message before it was looked at
		require.Empty(t, server.messages, "a message went on before the secret came")
		require.NoError(t,
			conn.WriteMessage(websocket.TextMessage, []byte(message("right-0123456789ab"))))
		require.Equal(t, held, server.message(t))
		require.Equal(t, message("right-0123456789ab"), server.message(t))
		require.Equal(t, held, <-received)
		require.Equal(t, message("right-0123456789ab"), <-received)
	})
	t.Run("wrong in a message", func(t *testing.T) {
		g := start(t, callback(live.addr, plainAuth+"callback_secret right-0123456789ab"))
		conn := open(t, g, withPassword())
		server := live.next(t)
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(message("wrong"))))
		requireClose(t, conn, websocket.ClosePolicyViolation)
		require.True(t, websocket.IsCloseError(server.end(t), websocket.CloseInternalServerErr))
		require.Empty(t, server.messages)
		line := g.waitForEnd(live.addr)
		require.Equal(t, "refused", line["reason"])
	})
	t.Run("only in messages", func(t *testing.T) {
		g := start(t, callback(live.addr, "callback_secret right-0123456789ab"))
		require.Equal(t, 401, refusedStream(t, g, nil).StatusCode)
	})
	t.Run("if_present is no identity", func(t *testing.T) {
		g := start(t, callback(live.addr,
			"callback_secret right-0123456789ab\ndg_token key {\nif_present\n}"))
		require.Equal(t, 401, refusedStream(t, g, nil).StatusCode)
		conn := open(t, g, http.Header{"Dg-Token": {"key"}})
		server := live.next(t)
		require.NoError(t,
			conn.WriteMessage(websocket.TextMessage, []byte(message("right-0123456789ab"))))
		require.Equal(t, message("right-0123456789ab"), server.message(t))
	})
	t.Run("any of them", func(t *testing.T) {
		g := start(t, callback(live.addr, plainAuth+"callback_secret right-0123456789ab\nrequire any"))
		require.Equal(t, 401, refusedStream(t, g, nil).StatusCode)
		talk(t, open(t, g, withPassword()), "no secret in it")
	})
}

func TestPairEndsTogether(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, "anonymous"))
	ends := map[string]struct {
		end  func(conn *websocket.Conn)
		code int
	}{
		"Close": {func(c *websocket.Conn) {
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"),
				time.Now().Add(patience))
		}, 1000},
		"Close of its own": {func(c *websocket.Conn) {
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4999, "x"),
				time.Now().Add(patience))
		}, 4999},
		"Close, no code": {func(c *websocket.Conn) {
			_ = c.WriteControl(websocket.CloseMessage, nil, time.Now().Add(patience))
		}, 1005},
		"FIN": {func(c *websocket.Conn) { _ = c.UnderlyingConn().Close() }, 1001},
		"half-close": {func(c *websocket.Conn) { _ = c.UnderlyingConn().(*net.TCPConn).CloseWrite() },
			1001},
		"RST": {func(c *websocket.Conn) {
			_ = c.UnderlyingConn().(*net.TCPConn).SetLinger(0)
			_ = c.UnderlyingConn().Close()
		}, 1001},
		"protocol error": {func(c *websocket.Conn) {
			_, _ = c.UnderlyingConn().Write([]byte{0xf1, 0x80, 0, 0, 0, 0})
		}, 1011},
	}
	for name, test := range ends {
		t.Run("caller: "+name, func(t *testing.T) {
			conn := open(t, g, nil)
			server := live.next(t)
			talk(t, conn, "hello")
			require.Equal(t, "hello", server.message(t))
			require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte("the last")))
			if name == "RST" { // which may overtake what is on its way
				require.Equal(t, "the last", server.message(t))
				hear(t, conn)
			}
			test.end(conn)
			err := server.end(t)
			require.True(t, websocket.IsCloseError(err, test.code), "%v", err)
			if name != "RST" {
				require.Equal(t, "the last", server.message(t), "a message before the end was lost")
			}
		})
		t.Run("backend: "+name, func(t *testing.T) {
			conn := open(t, g, nil)
			server := live.next(t)
			talk(t, conn, "hello")
			test.end(server.Conn)
			requireClose(t, conn, test.code)
		})
	}
}

func TestMessagesOverTheLimit(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, "anonymous\nstream {\nmax_message 1KiB\n}"))
	conn := open(t, g, nil)
	talk(t, conn, strings.Repeat("x", 1024))
	require.NoError(t, conn.WriteMessage(websocket.TextMessage, make([]byte, 1025)))
	requireClose(t, conn, websocket.CloseMessageTooBig)
}

func TestBinaryMessages(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, "anonymous"))
	conn := open(t, g, nil)
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, []byte{1}))
	requireClose(t, conn, websocket.CloseUnsupportedData)

	g.reload(callback(live.addr, "anonymous\nstream {\nallow_binary\n}"))
	conn = open(t, g, nil)
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, []byte{1, 2, 3}))
	require.Equal(t, "\x01\x02\x03", hear(t, conn))
}

func TestSilentCallerIsFoundOut(t *testing.T) {
	live := newEcho(t, echoOptions{silent: true})
	g := start(t, callback(live.addr, "anonymous\nstream {\nping_interval 50ms\npong_timeout 50ms\n}"))
	open(t, g, nil) // reads nothing, and so answers no ping
	server := live.next(t)
	require.True(t, websocket.IsCloseError(server.end(t), websocket.CloseGoingAway))
	line := g.waitForEnd(live.addr)
	require.Equal(t, "silent", line["reason"])
	require.Equal(t, "caller", line["ended_by"])
	require.Equal(t, "warn", line["level"])
}

// Caddy's timeouts are for requests and must not end streams, whose pings come much
// later than these timeouts.
func TestIdleTimeoutsOfTheServerDoNotEndAStream(t *testing.T) {
	live := newEcho(t)
	const timeouts = "servers {\ntimeouts {\nread_body_idle 100ms\nwrite_idle 100ms\n" +
		"read_body 200ms\nwrite 200ms\nidle 200ms\n}\n}"
	for name, site := range map[string]string{"access log off": "", "access log on": "log\n"} {
		t.Run(name, func(t *testing.T) {
			g := start(t, site+callback(live.addr, "anonymous"), options{global: timeouts})
			conn := open(t, g, nil)
			talk(t, conn, "hello")
			// There is nothing to wait for but time: twice the longest of the timeouts.
			<-time.After(400 * time.Millisecond)
			talk(t, conn, "still here")
		})
	}
}

func TestStreamAnswersWithTheUsersName(t *testing.T) {
	live := newEcho(t)
	g := start(t, "log\n"+callback(live.addr, plainAuth))
	talk(t, open(t, g, withPassword()), "hello")
	line := g.waitForLog("the handshake", func(line map[string]any) bool {
		return line["msg"] == "handled request"
	})
	require.Equal(t, "deepgram", line["user_id"])
	require.EqualValues(t, 101, line["status"])
}
