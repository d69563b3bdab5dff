package stream

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to happen. Only a test that
// fails waits so long.
const patience = 10 * time.Second

// generous are limits that no test runs into by accident.
var generous = Options{
	MaxMessage:   1 << 20,
	PingInterval: time.Hour,
	PongTimeout:  time.Hour,
	WriteTimeout: time.Minute,
	CloseTimeout: time.Minute,
}

// A frame is what an end sends or receives, with its payload unmasked. The tests
// read and write frames by code of their own, which shares nothing with a pair's.
type frame struct {
	fin     bool
	rsv     byte
	opcode  byte
	payload []byte
}

func text(s string) frame { return frame{fin: true, opcode: 1, payload: []byte(s)} }

func closing(code CloseCode, reason string) frame {
	return frame{fin: true, opcode: 8, payload: append([]byte{byte(code >> 8), byte(code)}, reason...)}
}

// encode returns the bytes of the frame, masked if key is not nil.
func (f frame) encode(key []byte) []byte {
	first := f.rsv<<4 | f.opcode
	if f.fin {
		first |= 0x80
	}
	var masked byte
	if key != nil {
		masked = 0x80
	}
	out := []byte{first}
	switch n := len(f.payload); {
	case n < 126:
		out = append(out, masked|byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, masked|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, masked|127), uint64(n))
	}
	if key == nil {
		return append(out, f.payload...)
	}
	out = append(out, key...)
	for i, b := range f.payload {
		out = append(out, b^key[i%4])
	}
	return out
}

// errIllegal is what readFrame returns for bytes that no endpoint may send.
var errIllegal = errors.New("illegal frame")

// readFrame reads one frame as strictly as RFC 6455 allows.
func readFrame(r io.Reader, wantMasked bool) (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{fin: head[0] >= 0x80, rsv: head[0] >> 4 & 7, opcode: head[0] & 15}
	masked, length := head[1] >= 0x80, uint64(head[1]&127)
	known := map[byte]bool{0: true, 1: true, 2: true, 8: true, 9: true, 10: true}
	switch {
	case f.rsv != 0 || !known[f.opcode]:
		return f, fmt.Errorf("%w: first byte %x", errIllegal, head[0])
	case masked != wantMasked:
		return f, fmt.Errorf("%w: masked is %v", errIllegal, masked)
	case f.opcode >= 8 && (!f.fin || length > 125):
		return f, fmt.Errorf("%w: control frame %x", errIllegal, head)
	}
	if length >= 126 {
		size, least := 2, uint64(126)
		if length == 127 {
			size, least = 8, 1<<16
		}
		wide := make([]byte, 8)
		if _, err := io.ReadFull(r, wide[8-size:]); err != nil {
			return f, err
		}
		if length = binary.BigEndian.Uint64(wide); length < least || length >= 1<<63 {
			return f, fmt.Errorf("%w: length %d in %d bytes", errIllegal, length, size)
		}
	}
	key := make([]byte, 4)
	if masked {
		if _, err := io.ReadFull(r, key); err != nil {
			return f, err
		}
	}
	f.payload = make([]byte, length)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, err
	}
	for i := range f.payload {
		f.payload[i] ^= key[i%4]
	}
	if f.opcode == 8 && len(f.payload) > 0 {
		if len(f.payload) == 1 || !utf8.Valid(f.payload[2:]) {
			return f, fmt.Errorf("%w: Close with %q", errIllegal, f.payload)
		}
		code := binary.BigEndian.Uint16(f.payload)
		if code < 1000 || code >= 5000 || (code >= 1004 && code <= 1006) ||
			(code >= 1015 && code < 3000) {
			return f, fmt.Errorf("%w: Close with code %d", errIllegal, code)
		}
	}
	return f, nil
}

// A peer is the far end of one leg.
type peer struct {
	t      testing.TB
	name   string
	conn   net.Conn
	in     *bufio.Reader
	client bool // it masks what it sends
}

var testKey = []byte{0xA1, 0x00, 0x5C, 0xFF}

func (p *peer) key() []byte {
	if p.client {
		return testKey
	}
	return nil
}

func (p *peer) send(frames ...frame) {
	p.t.Helper()
	for _, f := range frames {
		p.sendRaw(f.encode(p.key()))
	}
}

func (p *peer) sendRaw(b []byte) {
	p.t.Helper()
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil { // no FailNow: this may be a goroutine of the test
		p.t.Errorf("%s: write: %v", p.name, err)
	}
}

// next reads the next frame.
func (p *peer) next() (frame, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	f, err := readFrame(p.in, !p.client)
	if errors.Is(err, errIllegal) {
		p.t.Errorf("%s received an %v", p.name, err)
	}
	return f, err
}

func (p *peer) wants(want frame) {
	p.t.Helper()
	got, err := p.next()
	require.NoError(p.t, err, "%s: read", p.name)
	require.Equal(p.t, want.opcode, got.opcode, "%s: opcode, payload %.80q", p.name, got.payload)
	require.Equal(p.t, want.fin, got.fin, "%s: fin", p.name)
	if string(want.payload) != string(got.payload) { // a diff of a megabyte helps nobody
		require.Equal(p.t, fmt.Sprintf("%.80q", want.payload), fmt.Sprintf("%.80q", got.payload), p.name)
		require.Fail(p.t, "payloads differ", p.name)
	}
}

// wantsClose reads a Close frame with this code, and returns its reason.
func (p *peer) wantsClose(code CloseCode) string {
	p.t.Helper()
	f, err := p.next()
	require.NoError(p.t, err, "%s: read", p.name)
	require.EqualValues(p.t, 8, f.opcode, "%s: opcode, payload %.80q", p.name, f.payload)
	require.GreaterOrEqual(p.t, len(f.payload), 2, "%s: a Close frame without a code", p.name)
	got := CloseCode(binary.BigEndian.Uint16(f.payload))
	require.Equal(p.t, code, got, "%s: code, reason %q", p.name, f.payload[2:])
	return string(f.payload[2:])
}

// wantsEnd requires that nothing more comes, and then the end of the stream
// without an error.
func (p *peer) wantsEnd() {
	p.t.Helper()
	f, err := p.next()
	require.ErrorIs(p.t, err, io.EOF, "%s: got opcode %d, payload %.80q", p.name, f.opcode, f.payload)
}

func (p *peer) close() { _ = p.conn.Close() }

// reset ends the connection with a RST.
func (p *peer) reset() {
	p.t.Helper()
	conn := p.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	require.NoError(p.t, conn.(*net.TCPConn).SetLinger(0))
	_ = conn.Close()
}

func (p *peer) halfClose() {
	p.t.Helper()
	require.NoError(p.t, p.conn.(interface{ CloseWrite() error }).CloseWrite())
}

// A wire makes a connection, and returns the pair's side of it and the peer's.
type wire func(t testing.TB, relayIsServer bool) (relay, far net.Conn)

func pipeWire(testing.TB, bool) (relay, far net.Conn) { return net.Pipe() }

func tcpWire(t testing.TB, _ bool) (relay, far net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	far, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	relay, err = listener.Accept()
	require.NoError(t, err)
	return relay, far
}

func tlsWire(t testing.TB, relayIsServer bool) (relay, far net.Conn) {
	relay, far = tcpWire(t, relayIsServer)
	return overTLS(t, relay, far, relayIsServer, testTLS(t))
}

// tlsPipeWire is for a synctest bubble: nothing is buffered below TLS, and nothing
// is sent that nobody reads.
func tlsPipeWire(t testing.TB, relayIsServer bool) (relay, far net.Conn) {
	relay, far = net.Pipe()
	config := testTLS(t).Clone()
	config.SessionTicketsDisabled = true
	return overTLS(t, relay, far, relayIsServer, config)
}

// overTLS does a TLS handshake over the two ends of a connection.
func overTLS(
	t testing.TB, relay, far net.Conn, relayIsServer bool, config *tls.Config,
) (relayTLS, farTLS net.Conn) {
	var server, client *tls.Conn
	if relayIsServer {
		server, client = tls.Server(relay, config), tls.Client(far, config)
		relay, far = server, client
	} else {
		server, client = tls.Server(far, config), tls.Client(relay, config)
		relay, far = client, server
	}
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return relay, far
}

var testTLSOnce = sync.OnceValues(func() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"test"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify: true, // the test is its own peer
	}, nil
})

func testTLS(t testing.TB) *tls.Config {
	config, err := testTLSOnce()
	require.NoError(t, err)
	return config
}

// wires are the kinds of connection that a leg can be.
var wires = map[string]struct{ caller, backend wire }{
	"tcp":            {tcpWire, tcpWire},
	"tls to caller":  {tlsWire, tcpWire},
	"tls to backend": {tcpWire, tlsWire},
	"pipe":           {pipeWire, pipeWire},
}

// A bridge is a running pair with both of its peers.
type bridge struct {
	t               testing.TB
	pair            *Pair
	caller, backend *peer
	ended           chan End
}

// A setup says what a test's bridge is made of; the zero value is TCP connections
// and generous limits.
type setup struct {
	caller, backend wire
	options         Options
	admit           Admit
	callerBuffered  []byte
	backendBuffered []byte
	wrapCaller      func(net.Conn) net.Conn
	wrapBackend     func(net.Conn) net.Conn
	own             func(side string, e *Endpoint) // sets the limits of one end alone
}

func start(t testing.TB, s setup) *bridge {
	t.Helper()
	if s.options == (Options{}) {
		s.options = generous
	}
	if s.caller == nil {
		s.caller = tcpWire
	}
	if s.backend == nil {
		s.backend = tcpWire
	}
	callerConn, farCaller := s.caller(t, true)
	backendConn, farBackend := s.backend(t, false)
	if s.wrapCaller != nil {
		callerConn = s.wrapCaller(callerConn)
	}
	if s.wrapBackend != nil {
		backendConn = s.wrapBackend(backendConn)
	}
	b := &bridge{
		t: t,
		caller: &peer{
			t:      t,
			name:   "caller",
			conn:   farCaller,
			in:     bufio.NewReader(farCaller),
			client: true,
		},
		backend: &peer{t: t, name: "backend", conn: farBackend, in: bufio.NewReader(farBackend)},
		ended:   make(chan End, 2),
	}
	caller := Endpoint{Conn: callerConn, Buffered: s.callerBuffered, Admit: s.admit}
	backend := Endpoint{Conn: backendConn, Buffered: s.backendBuffered}
	if s.own != nil {
		s.own(ByCaller, &caller)
		s.own(ByBackend, &backend)
	}
	b.pair = Start(caller, backend, s.options, func(end End) { b.ended <- end })
	t.Cleanup(func() {
		b.caller.close()
		b.backend.close()
		select {
		case <-b.pair.Done():
		case <-time.After(patience):
			t.Errorf("the pair did not end after both of its peers had")
		}
	})
	return b
}

// wantsEnded waits for the end of the pair, and requires that it is this one.
func (b *bridge) wantsEnded(by, reason string) End {
	b.t.Helper()
	select {
	case end := <-b.ended:
		require.Equal(b.t, by, end.By, "by, in %+v", end)
		require.Equal(b.t, reason, end.Reason, "reason, in %+v", end)
		<-b.pair.Done()
		require.Empty(b.t, b.ended, "a second end")
		return end
	case <-time.After(patience):
		require.Fail(b.t, "the pair did not end")
		return End{}
	}
}

// sides are the two peers that can act while the other one survives.
var sides = []string{ByCaller, ByBackend}

// of returns the peer on that side, and the other one.
func (b *bridge) of(side string) (this, other *peer) {
	if side == ByCaller {
		return b.caller, b.backend
	}
	return b.backend, b.caller
}
