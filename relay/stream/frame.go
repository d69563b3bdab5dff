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

// parseHeader reads the header that p begins with. ok is false where p ends
// before the header does. A length with its highest bit set comes out
// negative, which check refuses.
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

// mask applies, or takes off, a masking key (RFC 6455, section 5.3).
func mask(p []byte, key [4]byte) {
	for i := range p {
		p[i] ^= key[i&3]
	}
}

// violation is a breach of the protocol, or of a limit, by one leg. Its code
// is what that leg is told in a Close frame.
type violation struct {
	code int
	text string
}

func (v *violation) Error() string { return v.text }

func breach(format string, args ...any) *violation {
	return &violation{code: CloseProtocolError, text: fmt.Sprintf(format, args...)}
}

// A message may have freeFrames frames, and one more for every bytesPerFrame
// bytes of it. The protocol sets no limit, but each frame costs its receiver
// something however little it carries, so a message without end could be made
// of frames without bytes. What cuts messages into pieces on purpose stays far
// below: the public conformance suite's smallest pieces of a large message have
// 64 bytes.
const (
	freeFrames    = 4096
	bytesPerFrame = 64
)

// grammar holds the rules that the frames of one direction have to keep, and
// where in a message the direction is.
type grammar struct {
	wantMasked  bool  // a client masks every frame, a server none (section 5.1)
	allowBinary bool  // else binary messages are refused with 1003
	maxMessage  int64 // bytes of payload over all of a message's frames

	inMessage bool  // a first frame without FIN has passed
	length    int64 // of the message so far
	frames    int64 // of the message so far
}

// check says whether a frame with this header may come now.
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

// accept moves on past a data frame that check let through. It reports
// whether the frame is the last of its message.
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

// beginMessage says that the next data frame is the first of a message.
func (g *grammar) beginMessage() { g.inMessage, g.length, g.frames = false, 0, 0 }

// Close codes of RFC 6455, section 7.4.1, that the gateway itself sends.
const (
	CloseGoingAway       = 1001
	CloseProtocolError   = 1002
	CloseUnsupportedData = 1003
	closeNoStatus        = 1005
	closeInvalidPayload  = 1007
	ClosePolicyViolation = 1008
	CloseMessageTooBig   = 1009
	CloseInternalError   = 1011
)

// parseClose reads the payload of a Close frame (RFC 6455, section 5.5.1). An
// empty one stands for 1005, which is never put into a frame itself.
func parseClose(payload []byte) (code int, text string, bad *violation) {
	if len(payload) == 0 {
		return closeNoStatus, "", nil
	}
	if len(payload) == 1 {
		return 0, "", breach("a Close frame with half a code")
	}
	code = int(binary.BigEndian.Uint16(payload))
	if !sendable(code) {
		return 0, "", breach("a Close frame with code %d", code)
	}
	if !utf8.Valid(payload[2:]) {
		return 0, "", &violation{code: closeInvalidPayload, text: "a Close reason that is not UTF-8"}
	}
	return code, string(payload[2:]), nil
}

// sendable reports whether an endpoint may put code into a Close frame:
// RFC 6455, section 7.4, and the codes that IANA has registered since.
func sendable(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}

// closePayload is the payload of a Close frame, its text made UTF-8 and cut to
// what fits, never in the middle of a character.
func closePayload(code int, text string) []byte {
	text = strings.ToValidUTF8(text, "\uFFFD")
	for len(text) > maxControlPayload-2 {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), text...)
}
