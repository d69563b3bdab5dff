// The grammar of RFC 6455: the headers of frames, the rules that they have to
// keep, and Close frames.

package stream

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// maxControlPayload is the most that a control frame may carry (RFC 6455,
// section 5.5), and maxHeader the longest header that a frame can have: two
// bytes, eight of extended length and four of masking key.
const (
	maxControlPayload = 125
	maxHeader         = 14
)

// header is the head of one frame (RFC 6455, section 5.2).
type header struct {
	fin     bool
	rsv     byte
	opcode  byte
	masked  bool
	minimal bool // the length is in the shortest of its three encodings
	length  int64
	key     [4]byte
	size    int // of the header itself, in bytes
}

func (h header) control() bool { return h.opcode&0x8 != 0 }

// parseHeader reads the header that p begins with. ok is false where p ends before the header
// does. A length with its highest bit set, which section 5.2 forbids, comes out negative, and
// grammar.check refuses that.
func parseHeader(p []byte) (h header, ok bool) {
	if len(p) < 2 {
		return h, false
	}
	h.fin = p[0]&0x80 != 0
	h.rsv = p[0] >> 4 & 0x7
	h.opcode = p[0] & 0xF
	h.masked = p[1]&0x80 != 0
	h.size, h.minimal = 2, true

	switch length := p[1] & 0x7F; length {
	case 126:
		if len(p) < 4 {
			return h, false
		}
		h.length = int64(binary.BigEndian.Uint16(p[2:]))
		h.size, h.minimal = 4, h.length > maxControlPayload
	case 127:
		if len(p) < 10 {
			return h, false
		}
		h.length = int64(binary.BigEndian.Uint64(p[2:]))
		h.size, h.minimal = 10, h.length > 0xFFFF
	default:
		h.length = int64(length)
	}
	if h.masked {
		if len(p) < h.size+4 {
			return h, false
		}
		copy(h.key[:], p[h.size:])
		h.size += 4
	}
	return h, true
}

// appendControl appends a control frame, masked with key where it goes from
// a client to a server (RFC 6455, section 5.1).
func appendControl(dst []byte, opcode byte, payload []byte, masked bool, key [4]byte) []byte {
	dst = append(dst, 0x80|opcode, byte(len(payload)))
	if !masked {
		return append(dst, payload...)
	}
	dst[len(dst)-1] |= 0x80
	dst = append(dst, key[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	mask(dst[start:], key)
	return dst
}

// mask applies a masking key to p, or takes it off (RFC 6455, section 5.3).
func mask(p []byte, key [4]byte) {
	for i := range p {
		p[i] ^= key[i&3]
	}
}

// violation is what one leg did against the protocol, or against a limit. Its
// code and text are what that leg is told in a Close frame.
type violation struct {
	code CloseCode
	text string
}

func (v *violation) Error() string { return v.text }

// breach is a violation of the protocol.
func breach(format string, args ...any) *violation {
	return &violation{code: CloseProtocolError, text: fmt.Sprintf(format, args...)}
}

// A message may have freeFrames frames, and one more for every bytesPerFrame bytes of it. The
// protocol sets no limit. But each frame costs its receiver something however little it carries,
// and frames without bytes would make a message without end that no limit of bytes ends. Programs
// that fragment on purpose stay far below: the smallest fragments that the Autobahn test suite
// cuts a large message into have 64 bytes.
const (
	freeFrames    = 4096
	bytesPerFrame = 64
)

// grammar holds the rules that the frames of one direction have to keep, and
// how far the message is that the direction is in.
type grammar struct {
	wantMasked  bool  // a client masks every frame, a server none (section 5.1)
	allowBinary bool  // else binary messages are refused with 1003
	maxMessage  int64 // bytes of payload over all frames of a message

	inMessage bool  // a first frame without FIN has passed, and no last one since
	length    int64 // bytes of payload in the message so far
	frames    int64 // frames of the message so far
}

// check returns what is wrong with a frame of this header coming now, or nil.
// It changes nothing: see accept.
func (g *grammar) check(h header) *violation {
	switch {
	case h.rsv != 0:
		return breach("reserved bits set, but no extension was negotiated")
	case h.masked != g.wantMasked && g.wantMasked:
		return breach("a frame without masking")
	case h.masked != g.wantMasked:
		return breach("a masked frame from a server")
	case h.length < 0 || !h.minimal:
		return breach("a length that is not minimally encoded")
	}
	if h.control() {
		return checkControl(h)
	}
	switch h.opcode {
	case opContinuation:
		if !g.inMessage {
			return breach("a continuation without a message to continue")
		}
	case opText, opBinary:
		if g.inMessage {
			return breach("a new message inside a fragmented one")
		}
		if h.opcode == opBinary && !g.allowBinary {
			return &violation{
				code: CloseUnsupportedData,
				text: "a binary message where only text is allowed",
			}
		}
	default:
		return breach("reserved opcode 0x%X", h.opcode)
	}
	if h.length > g.maxMessage-g.length {
		return &violation{
			code: CloseMessageTooBig,
			text: fmt.Sprintf("a message over %d bytes", g.maxMessage),
		}
	}
	if g.frames >= freeFrames+g.length/bytesPerFrame {
		return &violation{
			code: CloseMessageTooBig,
			text: fmt.Sprintf("a message of %d bytes in over %d frames", g.length, g.frames),
		}
	}
	return nil
}

func checkControl(h header) *violation {
	switch {
	case h.opcode > opPong:
		return breach("reserved opcode 0x%X", h.opcode)
	case !h.fin:
		return breach("a fragmented control frame")
	case h.length > maxControlPayload:
		return breach("a control frame over %d bytes", maxControlPayload)
	}
	return nil
}

// accept counts a data frame that check has let through. It reports whether the
// frame is the last of its message.
func (g *grammar) accept(h header) (last bool) {
	if h.fin {
		g.beginMessage()
		return true
	}
	g.inMessage = true
	g.length += h.length
	g.frames++
	return false
}

// beginMessage makes the next data frame the first of a message.
func (g *grammar) beginMessage() { g.inMessage, g.length, g.frames = false, 0, 0 }

// A CloseCode says, in a Close frame, why a connection is closed: RFC 6455, section 7.4, calls it a
// status code. The two ends of a stream may send each other any code that the RFC allows. The codes
// with a name here are those that a pair sends by itself, or has in an [End].
type CloseCode int

// The codes of RFC 6455, section 7.4.1.
const (
	CloseGoingAway       CloseCode = 1001 // an end is gone, or the gateway shuts down
	CloseProtocolError   CloseCode = 1002 // the protocol was broken
	CloseUnsupportedData CloseCode = 1003 // a binary message came where only text is allowed
	CloseNoStatus        CloseCode = 1005 // never sent: stands for a Close frame without a code
	CloseInvalidPayload  CloseCode = 1007 // a text came that is not UTF-8
	ClosePolicyViolation CloseCode = 1008 // the right credentials did not come
	CloseMessageTooBig   CloseCode = 1009 // a message came that is over a limit
	CloseInternalError   CloseCode = 1011 // the other end, or the gateway, has failed
	CloseTryAgainLater   CloseCode = 1013 // a message cannot be kept at present
)

// parseClose reads the payload of a Close frame (RFC 6455, section 5.5.1). An
// empty payload has the code [CloseNoStatus].
func parseClose(payload []byte) (code CloseCode, text string, bad *violation) {
	if len(payload) == 0 {
		return CloseNoStatus, "", nil
	}
	if len(payload) == 1 {
		return 0, "", breach("a Close frame with half a code")
	}
	code = CloseCode(binary.BigEndian.Uint16(payload))
	if !sendable(code) {
		return 0, "", breach("a Close frame with code %d", code)
	}
	if !utf8.Valid(payload[2:]) {
		return 0, "", &violation{code: CloseInvalidPayload, text: "a Close reason that is not UTF-8"}
	}
	return code, string(payload[2:]), nil
}

// sendable reports whether an endpoint may put code into a Close frame, by
// RFC 6455, section 7.4, and what IANA has registered since.
func sendable(code CloseCode) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}

// closePayload is the payload of a Close frame. Text that is not UTF-8 is made
// so, and text that does not fit is cut, never in the middle of a character.
func closePayload(code CloseCode, text string) []byte {
	text = strings.ToValidUTF8(text, "\uFFFD")
	for len(text) > maxControlPayload-2 {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), text...)
}
