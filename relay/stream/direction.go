package stream

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
)

// bufferSize is what a direction moves at a time. Frames that fit are
// forwarded whole, so that an end between two reads leaves room for a Close
// frame; larger ones go on as they come.
const bufferSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// A direction moves frames from one leg to the other. Only its goroutine
// touches it.
type direction struct {
	pair     *Pair
	from, to *leg
	grammar  grammar
	count    *counter
	reader   reader
	gate     *gate // nil once what comes may go on

	// buf is held only while bytes are in it: buf[start:end].
	buf        *[bufferSize]byte
	start, end int
	rest       int64 // what is still to come of a frame that is larger than the buffer
	restIsLast bool  // and whether that frame ends a message

	messages, bytes int64 // in what is about to be flushed
}

func newDirection(p *Pair, from, to *leg, count *counter, endpoint Endpoint) *direction {
	d := &direction{pair: p, from: from, to: to, count: count}
	d.grammar = grammar{
		wantMasked:  !from.toServer,
		allowBinary: p.options.AllowBinary,
		// so that a frame's size is an int64 too
		maxMessage: min(p.options.MaxMessage, math.MaxInt64-maxHeader),
	}
	d.reader = newReader(endpoint)
	if endpoint.Admit != nil {
		d.openGate(endpoint.Admit)
	}
	return d
}

// closeFrame is how relay returns when a Close frame came.
type closeFrame struct {
	payload []byte
	code    int
	text    string
}

func (closeFrame) Error() string { return "close frame received" }

// writeError is how relay returns when to takes no more.
type writeError struct {
	to *leg
	error
}

func (e writeError) Unwrap() error { return e.error }

// run relays until one leg ends, ends the pair, and stays with its own leg
// until nothing more can come from there.
func (d *direction) run() {
	defer d.pair.returned()
	defer d.pair.guard()
	defer d.closeGate(false) // or the other direction would wait at it for good
	for d.conclude(d.relay()) {
	}
	d.release()
}

// conclude ends the pair in the way that err asks for. It reports whether to
// relay on, in order to hear d's own leg answer the Close frame that it gets.
func (d *direction) conclude(err error) (again bool) {
	p := d.pair
	var (
		frame  closeFrame
		broken *violation
		write  writeError
	)
	if errors.As(err, &write) {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.stalled(write.to, p.other(write.to), err)
		} else {
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
			again = d.end > had // at a gate more came meanwhile
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

// fill reads at least one byte into the buffer.
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

// space is where the next bytes go.
func (d *direction) space() []byte {
	if d.buf == nil {
		d.buf = buffers.Get().(*[bufferSize]byte)
	}
	return d.buf[d.end:]
}

// release gives the buffer back.
func (d *direction) release() {
	if d.buf != nil {
		buffers.Put(d.buf)
		d.buf, d.start, d.end = nil, 0, 0
	}
}

// forward moves on every frame that is in the buffer. What came before a
// frame that ends the stream is forwarded first.
func (d *direction) forward() error {
	if d.gate != nil {
		return d.hold()
	}
	ready := d.start // up to d.start, what may go out but has not yet
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
			// Between two large frames there is room for a control frame of
			// the gateway's own.
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
			break // soon whole
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

// flush writes buf[from:start] to the other leg.
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

// control looks at a control frame. Pings and pongs that the two ends
// exchange go through, so that each still finds out whether the other lives;
// the answer to the gateway's own ping goes no further.
func (d *direction) control(h header, payload []byte) (skip bool, end error) {
	if h.masked {
		// A frame that goes on must keep its masked payload, so the copy is unmasked.
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

// answer answers a ping in the place of the other end, which a gate keeps
// from hearing of it: its sender must not take that for the other's death.
func (d *direction) answer(ping []byte) error {
	if err := d.from.pong(ping); err != nil {
		return writeError{d.from, err}
	}
	return nil
}

// discard reads and drops what still comes from d's leg, until its end or
// until the pair closes it.
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

// A reader puts bytes into d.space() and moves d.end, waiting for them without
// holding a buffer where the platform allows that.
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

// probeSize is what a blocking read waits with: enough for most messages.
const probeSize = 2 << 10

// blockingReader reads connections of which nobody can say whether bytes are
// there, such as TLS, whose bytes may be decrypted already.
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

// readResult lets bytes that came with an error count first: the error comes
// again with the next read.
func readResult(n int, err error) error {
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}
