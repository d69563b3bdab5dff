// A direction: the loop that moves frames from one leg of a pair to the other.

package stream

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
)

// bufferSize is how many bytes a direction reads at a time. A frame that fits is forwarded whole,
// so that a connection that ends between two reads leaves room for a Close frame. A larger frame
// goes on in pieces, as it comes. It bounds what a pair holds for a leg that takes nothing, and saves
// system calls where much comes: with half of it, 16 streams flat out took 10 % more processor time.
const bufferSize = 32 << 10

// buffers keeps the buffers that no direction holds at the moment.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// A direction moves frames from one leg to the other. Only the goroutine that
// runs it touches it.
type direction struct {
	pair     *Pair
	from, to *leg
	grammar  grammar
	count    *counter
	reader   reader
	gate     *gate // holds back what comes from the leg; nil when nothing is held back any more

	// buf[start:end] are the bytes that were read and not yet forwarded. Without
	// any, buf is nil, so that an idle direction costs no buffer.
	buf        *[bufferSize]byte
	start, end int
	rest       int64 // bytes still to come of a frame that is larger than the buffer
	restIsLast bool  // whether that frame ends a message

	messages, bytes int64 // what the next flush adds to count
}

func newDirection(p *Pair, from, to *leg, count *counter, endpoint Endpoint) *direction {
	d := &direction{pair: p, from: from, to: to, count: count}
	d.grammar = grammar{
		wantMasked:  !from.toServer,
		allowBinary: p.options.AllowBinary,
		// The size of a header is added to a length, and the sum has to fit an int64.
		maxMessage: min(p.options.MaxMessage, math.MaxInt64-maxHeader),
	}
	d.reader = newReader(endpoint)
	if endpoint.Admit != nil {
		d.openGate(endpoint.Admit)
	}
	return d
}

// closeFrame is the error that relay returns when a Close frame came.
type closeFrame struct {
	payload []byte
	code    CloseCode
	text    string
}

func (closeFrame) Error() string { return "close frame received" }

// writeError is the error that relay returns when a write to a leg failed. That leg need not be
// the one that the direction forwards to: a ping may be answered to where it came from.
type writeError struct {
	to *leg
	error
}

func (e writeError) Unwrap() error { return e.error }

// run relays until one leg ends, and ends the pair. It returns when nothing
// more can come from its own leg.
func (d *direction) run() {
	defer d.pair.returned()
	defer d.pair.guard()
	defer d.closeGate(false) // the other direction may be waiting at the gate
	for d.conclude(d.relay()) {
	}
	d.release()
}

// conclude ends the pair in the way that err, which relay returned, asks for. It reports whether to
// relay on: after a failed write, the leg that d reads from still has to answer the Close frame
// that it is sent.
func (d *direction) conclude(err error) (again bool) {
	p := d.pair
	var (
		frame  closeFrame
		broken *violation // also one that only the sink has found
		write  writeError
		sink   *sinkError
	)
	if errors.As(err, &write) && !errors.As(err, &broken) {
		switch other := p.other(write.to); {
		case errors.As(err, &sink):
			p.refused(write.to, other, sink)
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.stalled(write.to, other, err)
		default:
			p.lose(write.to, err)
		}
		return true
	}

	d.closeGate(false)
	switch {
	case errors.As(err, &frame):
		p.closed(d.from, d.to, frame)
		d.discard()

	case errors.As(err, &broken):
		reason := EndViolation
		if broken.code == ClosePolicyViolation {
			reason = EndRefused
		}
		p.failed(d.from, d.to, End{
			Reason: reason,
			Code:   CloseInternalError,
			Text:   d.from.name + ": " + broken.text,
			Err:    broken,
		}, broken.code, broken.text)
		d.discard()

	default:
		p.dropped(d.from, d.to, err)
	}
	return false
}

// relay forwards frames until one leg ends. It never returns nil.
func (d *direction) relay() error {
	for {
		for again := d.start < d.end; again; {
			had := d.end
			if err := d.forward(); err != nil {
				return err
			}
			again = d.end > had // forward has read more while it waited at a gate
		}
		if d.start == d.end {
			d.release()
		}
		if err := d.fill(); err != nil {
			return err
		}
		d.from.lastRead.Store(d.pair.elapsed())
	}
}

// fill blocks until it has read at least one byte into the buffer, and tells
// the keepalive that it waits.
func (d *direction) fill() error {
	if d.start > 0 {
		copy(d.buf[:], d.buf[d.start:d.end])
		d.start, d.end = 0, d.end-d.start
	}
	d.from.readingSince.Store(d.pair.elapsed())
	err := d.reader.read(d)
	d.from.readingSince.Store(-1)
	return err
}

// space is the free part of the buffer, where the next bytes go. It takes a
// buffer if there is none.
func (d *direction) space() []byte {
	if d.buf == nil {
		d.buf = buffers.Get().(*[bufferSize]byte)
	}
	return d.buf[d.end:]
}

// release gives the buffer, and whatever is in it, back.
func (d *direction) release() {
	if d.buf != nil {
		buffers.Put(d.buf)
		d.buf, d.start, d.end = nil, 0, 0
	}
}

// forward sends the frames in the buffer to the other leg: those that are whole, and what has come
// of one that is larger than the buffer. It returns an error at a Close frame and at a frame that
// breaks a rule, after it has sent what came before. It blocks while the other leg takes nothing,
// or has yet to be admitted.
func (d *direction) forward() error {
	if d.gate != nil {
		return d.hold()
	}
	ready := d.start // buf[ready:start] may go out, and has not yet
	var end error
	for end == nil && d.start < d.end {
		if d.rest > 0 {
			n := min(d.rest, int64(d.end-d.start))
			d.start += int(n)
			d.rest -= n
			d.bytes += n
			if d.rest > 0 {
				break
			}
			// What ends a large frame is flushed by itself: a Close frame that
			// waits for this goes out before the next large frame begins.
			if d.restIsLast {
				d.messages++
			}
			if err := d.flush(ready); err != nil {
				return err
			}
			ready = d.start
			continue
		}
		h, ok := parseHeader(d.buf[d.start:d.end])
		if !ok {
			break
		}
		if bad := d.grammar.check(h); bad != nil {
			end = bad
			break
		}
		size := int64(h.size) + h.length
		have := int64(d.end - d.start)
		if have < size && size <= bufferSize {
			break // the next reads bring the rest of it
		}
		if h.control() {
			payload := d.buf[d.start+h.size : d.start+int(size)]
			if skip, err := d.control(h, payload); skip || err != nil {
				if err := d.flush(ready); err != nil {
					return err
				}
				d.start += int(size)
				ready, end = d.start, err
				continue
			}
			d.start += int(size)
			continue
		}
		last := d.grammar.accept(h)
		if have < size {
			d.bytes += have - int64(h.size)
			d.start, d.rest, d.restIsLast = d.end, size-have, last
			break
		}
		d.bytes += h.length
		if last {
			d.messages++
		}
		d.start += int(size)
	}
	if err := d.flush(ready); err != nil {
		return err
	}
	return end
}

// flush writes buf[from:start] to the other leg, once that is admitted, and
// counts it. What cannot be sent any more, as the pair is ending, is not counted.
func (d *direction) flush(from int) error {
	if from == d.start {
		return nil
	}
	messages, bytes := d.messages, d.bytes
	d.messages, d.bytes = 0, 0
	if admitted, err := d.awaitGate(); !admitted {
		return err
	}
	sent, err := d.to.write(d.buf[from:d.start], d.rest == 0)
	if err != nil {
		return writeError{d.to, err}
	}
	if sent {
		d.count.messages.Add(messages)
		d.count.bytes.Add(bytes)
	}
	return nil
}

// control decides about a control frame: whether to skip it, so that it goes no further, and
// whether to end the stream. Pings and pongs that the two ends exchange go through, so that each
// still finds out whether the other lives; the answer to a ping of the gateway's own does not.
func (d *direction) control(h header, payload []byte) (skip bool, end error) {
	if h.masked {
		// The frame may go on, as it came: so a copy of its payload is unmasked.
		payload = append(make([]byte, 0, maxControlPayload), payload...)
		mask(payload, h.key)
	}
	switch h.opcode {
	case opPing:
		if d.to.gate.decided() {
			return false, nil
		}
		return true, d.answer(payload)
	case opPong:
		return d.from.ownPong(payload) || !d.to.gate.decided(), nil
	case opClose:
		code, text, bad := parseClose(payload)
		if bad != nil {
			return true, bad
		}
		return true, closeFrame{payload: append([]byte(nil), payload...), code: code, text: text}
	}
	return false, nil
}

// answer answers a ping in the place of the other end, which a gate keeps from
// hearing it: without a pong, the sender would take the other end for dead.
func (d *direction) answer(ping []byte) error {
	if err := d.from.pong(ping); err != nil {
		return writeError{d.from, err}
	}
	return nil
}

// discard reads what still comes from d's leg and forgets it. It blocks until
// the leg ends or the pair closes it; a read deadline that passes closes it too.
func (d *direction) discard() {
	for {
		d.start, d.end = 0, 0
		if err := d.reader.read(d); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				d.from.drop()
			}
			return
		}
		d.release()
	}
}

// A reader reads at least one byte into d.space() and moves d.end past what it
// has read, or returns an error. Where the platform allows that, it waits
// without holding a buffer.
type reader interface {
	read(d *direction) error
}

// newReader makes the reader for an endpoint: first what was read beyond the
// handshake, then the connection.
func newReader(endpoint Endpoint) reader {
	r := connReader(endpoint.Conn)
	if len(endpoint.Buffered) > 0 {
		return &bufferedReader{buffered: endpoint.Buffered, then: r}
	}
	return r
}

// A bufferedReader yields bytes that were read earlier. After the last of them
// it puts the reader behind it into its own place.
type bufferedReader struct {
	buffered []byte
	then     reader
}

func (r *bufferedReader) read(d *direction) error {
	n := copy(d.space(), r.buffered)
	d.end += n
	if r.buffered = r.buffered[n:]; len(r.buffered) == 0 {
		d.reader = r.then
	}
	return nil
}

// probeSize is the size of the small buffer that a blockingReader waits with:
// enough for most messages.
const probeSize = 2 << 10

// A blockingReader reads a connection that cannot be asked whether bytes are there, such as TLS,
// which may have decrypted some already. So it needs a buffer to wait with, and takes a small one.
type blockingReader struct {
	conn  net.Conn
	probe []byte
}

func (r *blockingReader) read(d *direction) error {
	if d.buf != nil {
		n, err := r.conn.Read(d.space())
		d.end += n
		return readResult(n, err)
	}
	if r.probe == nil {
		r.probe = make([]byte, probeSize)
	}
	n, err := r.conn.Read(r.probe)
	if n > 0 {
		d.end += copy(d.space(), r.probe[:n])
	}
	return readResult(n, err)
}

// readResult is what a read amounts to that returned n and err. Bytes that came
// with an error count first: the error comes again with the next read.
func readResult(n int, err error) error {
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}
