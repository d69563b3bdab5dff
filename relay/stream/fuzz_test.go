package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// FuzzDirection sends any bytes at a pair from either end, cut in any way, and
// then nothing more. Whatever they are, the pair must end, with both legs, and
// neither end may be sent anything illegal.
func FuzzDirection(f *testing.F) {
	seeds := map[string][]frame{
		"messages":  conversation()[:8],
		"Close":     {text("hello"), closing(1000, "bye")},
		"violation": {text("hello"), {fin: true, rsv: 1, opcode: 1}},
		"large": {{opcode: 1, payload: make([]byte, 20000)}, {fin: true, opcode: 9},
			{fin: true, payload: make([]byte, 20000)}, closing(4000, "")},
		"too large": {text("hello"), {fin: true, opcode: 1, payload: make([]byte, 70000)}},
		"admitted":  {text("hello"), {fin: true, opcode: 9}, text("open sesame"), text("more")},
		"refused":   {text("hello"), text("wrong")},
	}
	for _, frames := range seeds {
		for _, fromBackend := range []bool{false, true} {
			raw := wireBytes(frames, (&peer{client: !fromBackend}).key())
			f.Add(raw, fromBackend, uint16(0), false)
			f.Add(raw, fromBackend, uint16(7), true)
			f.Add(raw[:len(raw)-1], fromBackend, uint16(3000), false)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, fromBackend bool, chunk uint16, gated bool) {
		size := int(chunk)
		if size == 0 {
			size = len(raw) + 1
		}
		options := generous
		options.MaxMessage = 60000
		s := setup{
			caller: pipeWire, backend: pipeWire, options: options,
			wrapCaller:  func(c net.Conn) net.Conn { return shortReads{c, func() int { return size }} },
			wrapBackend: func(c net.Conn) net.Conn { return shortReads{c, func() int { return size }} },
		}
		if gated {
			s.admit = password
		}
		b := start(t, s)
		side := ByCaller
		if fromBackend {
			side = ByBackend
		}
		sender, receiver := b.of(side)
		outputs := make(chan []byte, 2)
		for _, p := range []*peer{sender, receiver} {
			go func() { outputs <- p.listen() }()
		}
		// What the backend sends waits at the gate, until the caller ends.
		atGate := gated && fromBackend
		_ = sender.conn.SetWriteDeadline(time.Now().Add(patience))
		if atGate {
			_ = sender.conn.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		}
		_, _ = sender.conn.Write(raw)
		sender.close()
		if atGate {
			receiver.close()
		}
		<-outputs
		<-outputs
		select {
		case <-b.ended:
		case <-time.After(patience):
			t.Fatal("the pair did not end")
		}
	})
}

// listen reads all that comes, answers a Close frame with another, and reports an error for
// anything illegal: a bad frame, a message of bad fragments, or anything behind a Close frame. It
// returns once the stream has ended.
func (p *peer) listen() []byte {
	var raw bytes.Buffer
	in := io.TeeReader(p.conn, &raw)
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	inMessage, closed := false, false
	for {
		f, err := readFrame(in, !p.client)
		switch {
		case errors.Is(err, errIllegal):
			p.t.Errorf("%s: %v", p.name, err)
			return raw.Bytes()
		case err != nil:
			return raw.Bytes() // perhaps in the middle of a frame
		case closed:
			p.t.Errorf("%s: opcode %d behind a Close", p.name, f.opcode)
			return raw.Bytes()
		case f.opcode < 8 && inMessage != (f.opcode == 0):
			p.t.Errorf("%s: opcode %d, but in a message: %v", p.name, f.opcode, inMessage)
			return raw.Bytes()
		case f.opcode < 8:
			inMessage = !f.fin
		case f.opcode == 8:
			closed = true
			go func() {
				_, _ = p.conn.Write(f.encode(p.key()))
			}()
		}
	}
}
