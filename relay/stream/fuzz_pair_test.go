package stream

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzPair has both ends act out a script: legal frames, illegal ones, garbage,
// pauses, and the end of the connection anywhere. Whatever the scripts say,
//
//   - nothing in the pair panics,
//   - what an end receives is legal, and is what the other end sent before
//     anything illegal, in order,
//   - the pair is over as soon after the first end as its limits say.
//
// What an end may receive is worked out by a model below that shares nothing
// with the relay's grammar.
func FuzzPair(f *testing.F) {
	for _, script := range [][]byte{
		{opSendText, 5, opSendText, 200, opSendPing, 3, opSendClose, 0},
		{opSendFirst, 3, opSendPing, 0, opSendMiddle, 0, opSendLast, 9, opSendLarge, 255, opCutOff, 0},
		{opSendLarge, 90, opSendReserved, 1, opSendText, 1},
		{opSendText, 1, opSendUnmasked, 4, opSendText, 1},
		{opSendText, 1, opSendLong, 3},
		{opSendText, 1, opPause, 255, opSendText, 1, opPause, 255, opPause, 255},
		{opSendInPieces | opSendLarge, 200, opSendInPieces, 90, opSendClose, 7},
		{opSendBinary, 4},
		{opSendGarbage, 40},
		{opSendMiddle, 1},
		{opSendOverlong, 100},
		{opSendText, adminWord, opSendText, 5, opSendClose, 1},
		slices.Repeat([]byte{opPause, 255}, 100),
	} {
		f.Add(script, []byte{}, uint16(0), uint8(0), false)
		f.Add([]byte{}, script, uint16(1), uint8(0), false)
		f.Add(script, script, uint16(300), uint8(120), false)
		f.Add(script, script, uint16(0), uint8(0), true)
	}
	// Nobody passes the gate, and the backend sends more than can wait there.
	f.Add([]byte{opSendLarge, 128}, []byte{opSendLarge, 90, opSendPong, 1}, uint16(0), uint8(0), true)
	f.Fuzz(func(t *testing.T, caller, backend []byte, chunk uint16, pause uint8, gated bool) {
		if len(caller) > 200 || len(backend) > 200 {
			t.Skip()
		}
		actOut(t, caller, backend, int(chunk), time.Duration(pause)*time.Millisecond, gated)
	})
}

// The instructions of a script. Each is followed by one byte, its argument.
const (
	opSendText = iota
	opSendFirst
	opSendMiddle
	opSendLast
	opSendLarge
	opSendPing
	opSendPong
	opSendClose
	opSendBinary
	opSendReserved
	opSendUnmasked
	opSendOverlong
	opSendLong
	opSendGarbage
	opPause
	opCutOff
	opSendInPieces = 0x10 // with one of the others
)

// adminWord, behind opSendText, is the message that a gate admits.
const adminWord = 199

// hasty are limits so short that scripts run into them. The time is real, not
// that of a synctest bubble: a leg's lock is held while it writes, and while a
// goroutine waits for a lock the bubble's clock stands still.
var hasty = Options{
	MaxMessage:   60_000,
	PingInterval: 100 * time.Millisecond,
	PongTimeout:  50 * time.Millisecond,
	WriteTimeout: 50 * time.Millisecond,
	CloseTimeout: 50 * time.Millisecond,
}

// inTime is how long the pair may take to be over after its end has begun: twice
// what legs are given to settle, beside which the limits above are nothing, and
// as much again for a busy machine.
const inTime = 4 * settle

// actTime is how long the scripts may take, half of it for the pauses of one of them. A fuzzer takes an input
// of ten seconds for one that hangs, and who waits at a gate that nobody passes waits for
// admitWithin.
const actTime = time.Second

func actOut(
	t *testing.T, callerScript, backendScript []byte, chunk int, pause time.Duration, gated bool,
) {
	s := setup{caller: pipeWire, backend: pipeWire, options: hasty}
	if chunk > 0 {
		cut := func(c net.Conn) net.Conn { return shortReads{c, func() int { return chunk }} }
		s.wrapCaller, s.wrapBackend = cut, cut
	}
	if gated {
		s.admit = password
	}
	b := start(t, s)
	actors := map[string]*actor{
		ByCaller:  {peer: b.caller, pause: pause},
		ByBackend: {peer: b.backend},
	}
	var scripts, readers sync.WaitGroup
	for side, script := range map[string][]byte{ByCaller: callerScript, ByBackend: backendScript} {
		_ = actors[side].peer.conn.SetDeadline(time.Time{})
		readers.Go(actors[side].read)
		scripts.Go(func() { actors[side].act(script) })
	}
	curtain := time.AfterFunc(actTime, b.caller.close)
	scripts.Wait()
	curtain.Stop()
	b.caller.close()
	over := time.Now()
	<-b.pair.Done()
	ended := time.Now()
	b.backend.close()
	readers.Wait()
	end := <-b.ended

	require.NotEqual(t, EndFault, end.Reason, "%v", end.Err)
	for _, a := range actors {
		if !a.over.IsZero() && a.over.Before(over) {
			over = a.over
		}
	}
	require.LessOrEqual(t, ended.Sub(over), inTime, "the pair is over too late, %+v", end)
	for side, a := range actors {
		other := actors[ByCaller]
		if a == other {
			other = actors[ByBackend]
		}
		sent, received := other.sent, a.received
		if gated { // pings and pongs are not passed on before the end is admitted
			sent, received = dataOnly(sent), dataOnly(received)
		}
		require.LessOrEqual(t, len(received), len(sent), "%s received more than was sent", side)
		require.True(t, slices.EqualFunc(received, sent[:len(received)], sameFrame),
			"%s received what was not sent", side)
	}
}

func sameFrame(a, b frame) bool {
	return a.fin == b.fin && a.opcode == b.opcode && string(a.payload) == string(b.payload)
}

func dataOnly(frames []frame) []frame {
	return slices.DeleteFunc(slices.Clone(frames), func(f frame) bool { return f.opcode >= 8 })
}

// An actor is one end with its script.
type actor struct {
	peer  *peer
	pause time.Duration // before it reads what comes second

	writing   sync.Mutex
	sent      []frame // legal ones, until the first illegal one or the end
	done      bool    // nothing more of what is sent may arrive
	inMessage bool
	length    int64

	over     time.Time // when this end sent what ends the pair
	received []frame
}

// sends writes raw: the bytes of frame f or, where f is nil, something illegal.
func (a *actor) sends(f *frame, raw []byte, inPieces bool) (ok bool) {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.expect(f)
	pieces := [][]byte{raw}
	if inPieces {
		pieces = [][]byte{raw[:len(raw)/2], raw[len(raw)/2:]}
	}
	for _, piece := range pieces {
		if _, err := a.peer.conn.Write(piece); err != nil {
			a.ends()
			return false
		}
		if inPieces {
			time.Sleep(5 * time.Millisecond)
		}
	}
	if a.done && f != nil {
		a.ends()
	}
	return true
}

func (a *actor) ends() {
	a.done = true
	if a.over.IsZero() {
		a.over = time.Now()
	}
}

// expect notes that f has to arrive, if the rules of RFC 6455, which are written
// down here once more, let it.
func (a *actor) expect(f *frame) {
	if a.done {
		return
	}
	if f == nil || f.rsv != 0 {
		a.done = true
		return
	}
	switch f.opcode {
	case 9, 10:
	case 0, 1:
		a.length += int64(len(f.payload))
		if a.inMessage != (f.opcode == 0) || a.length > hasty.MaxMessage {
			a.done = true
			return
		}
		if a.inMessage = !f.fin; f.fin {
			a.length = 0
		}
	default:
		a.done = true
		return
	}
	a.sent = append(a.sent, *f)
}

func (a *actor) act(script []byte) {
	key := a.peer.key()
	pauses := actTime / 2
	for ; len(script) >= 2; script = script[2:] {
		op, arg := script[0]&0xF, script[1]
		payload := make([]byte, arg)
		for i := range payload {
			payload[i] = 'a' + byte(i)%26
		}
		f := &frame{fin: true, opcode: 1, payload: payload}
		var raw []byte
		switch op {
		case opSendText:
			if arg == adminWord {
				f.payload = []byte("open sesame")
			}
		case opSendFirst:
			f.fin = false
		case opSendMiddle:
			f.opcode, f.fin = 0, false
		case opSendLast:
			f.opcode = 0
		case opSendLarge:
			f.payload = make([]byte, int(arg)*257)
		case opSendPing, opSendPong:
			f.opcode = 9 + op - opSendPing
			f.payload = payload[:min(len(payload), 125)]
			if len(f.payload) == 8 { // as the gateway's own have
				f.payload = f.payload[:7]
			}
		case opSendClose:
			f = closeFrameOf(arg)
		case opSendBinary:
			f.opcode = 2
		case opSendReserved:
			f.rsv = arg%7 + 1
		case opSendUnmasked:
			wrong := testKey
			if key != nil {
				wrong = nil
			}
			raw, f.rsv = f.encode(wrong), 1 // so that the model takes it for illegal
		case opSendOverlong:
			raw = append(binary.BigEndian.AppendUint16([]byte{0x81, a.peer.maskBit() | 126},
				uint16(arg%126)), key...)
			f.rsv = 1
		case opSendLong:
			raw = append(binary.BigEndian.AppendUint64([]byte{0x81, a.peer.maskBit() | 127},
				1<<(63-arg%40)-uint64(arg)), key...)
			f.rsv = 1
		case opSendGarbage:
			raw, f = script[1:], nil
			if raw[0]&0x70 == 0 && len(raw) > 1 { // it could happen to be legal
				raw[0] |= 0x70
			}
		case opPause:
			pause := min(time.Duration(arg)*time.Millisecond, pauses)
			time.Sleep(pause)
			pauses -= pause
			continue
		case opCutOff:
			a.writing.Lock()
			a.ends()
			a.writing.Unlock()
			a.peer.close()
			return
		}
		if raw == nil {
			raw = f.encode(key)
		}
		if !a.sends(f, raw, script[0]&opSendInPieces != 0) {
			return
		}
	}
}

// closeFrameOf is a Close frame, legal or not.
func closeFrameOf(arg byte) *frame {
	codes := []CloseCode{1000, 1001, 1002, 1003, 1005, 1006, 1007, 1011, 1015, 999, 3000, 4999, 5000,
		2999, 0, 65535}
	f := closing(codes[arg%16], "bye")
	switch arg >> 4 {
	case 1:
		f.payload = nil
	case 2:
		f.payload = f.payload[:1]
	case 3:
		f.payload = append(f.payload, 0xFF)
	}
	return &f
}

// read reads what comes, answers the gateway's pings and its Close frame, and
// checks every frame against the rules.
func (a *actor) read() {
	for n := 0; ; n++ {
		if n == 1 {
			time.Sleep(a.pause)
		}
		f, err := readFrame(a.peer.conn, !a.peer.client)
		if errors.Is(err, errIllegal) {
			a.peer.t.Errorf("%s received an %v", a.peer.name, err)
		}
		if err != nil {
			return
		}
		switch {
		case f.opcode == 9 && len(f.payload) == 8:
			f.opcode = 10
			go a.answer(f)
		case f.opcode == 10 && len(f.payload) == 8: // to a ping of the gateway's that came too late
		case f.opcode == 8:
			require.True(a.peer.t, len(f.payload) == 0 || utf8.Valid(f.payload[2:]))
			go a.answer(f)
			rest, _ := io.ReadAll(a.peer.conn)
			if len(rest) > 0 {
				a.peer.t.Errorf("%s received %x behind a Close", a.peer.name, rest)
			}
			return
		case f.opcode == 10: // perhaps the gateway's answer, at a gate
			a.received = append(a.received, f)
		default:
			a.received = append(a.received, f)
		}
	}
}

// answer sends a frame that is no part of the script.
func (a *actor) answer(f frame) {
	a.writing.Lock()
	defer a.writing.Unlock()
	if f.opcode == 8 {
		a.done = true
	}
	_, _ = a.peer.conn.Write(f.encode(a.peer.key()))
}
