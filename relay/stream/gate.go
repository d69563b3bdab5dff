// A gate: holding messages back until one of them carries the right credentials.

package stream

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// An end that has to be admitted may send frames of admitLimit bytes, and take
// admitWithin, until one of its messages has carried the right credentials.
const (
	admitLimit  = 64 << 10
	admitWithin = 30 * time.Second
)

// A gate holds back what comes from one end, and what goes to it, until a message of that end
// admits it. All fields but the last two belong to the direction that reads from that end.
type gate struct {
	admit Admit
	timer *time.Timer

	held    []byte // the whole data frames that came, as they came
	part    []byte // the beginning of the next frame, of which not all has come
	message []byte // the payload so far of the message that held ends in, unmasked

	admitted bool          // whether the end is admitted, once closed is closed
	closed   chan struct{} // closed when it is known whether the end is admitted
}

// openGate puts a gate before the end that d reads from, and starts the time
// within which that end has to be admitted.
func (d *direction) openGate(admit Admit) {
	d.gate = &gate{admit: admit, closed: make(chan struct{})}
	d.from.gate = d.gate
	d.gate.timer = time.AfterFunc(admitWithin, func() {
		defer d.pair.guard()
		const text = "no right credentials in time"
		d.pair.failed(d.from, d.to, End{
			Reason: EndRefused,
			Code:   CloseInternalError,
			Text:   d.from.name + ": " + text,
		}, ClosePolicyViolation, text)
	})
}

// closeGate takes the gate away, if there is one, and tells who waits at it whether the end was
// admitted. Nothing stays in memory of what the gate held, nor of the function that judged it.
func (d *direction) closeGate(admitted bool) {
	g := d.gate
	if g == nil {
		return
	}
	d.gate = nil
	g.timer.Stop()
	g.admit, g.held, g.part, g.message = nil, nil, nil, nil
	g.admitted = admitted
	close(g.closed)
}

// lookAtGate is how often a direction that waits for an end to be admitted
// looks whether it is.
const lookAtGate = 100 * time.Millisecond

// awaitGate blocks until the end that d writes to is admitted, or never will be. Meanwhile it reads
// on, in order to notice if the end that it reads from is gone. When the buffer is full it cannot
// read on, and does not notice.
func (d *direction) awaitGate() (admitted bool, err error) {
	g := d.to.gate
	if g == nil {
		return true, nil
	}
	for !g.decided() {
		if d.end == bufferSize {
			<-g.closed
			break
		}
		d.from.setReadDeadline(time.Now().Add(lookAtGate))
		err := d.reader.read(d)
		d.from.setReadDeadline(time.Time{})
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, err
		}
	}
	return g.admitted, nil
}

// decided reports whether the end behind the gate is admitted or refused. It
// is without a gate.
func (g *gate) decided() bool {
	if g == nil {
		return true
	}
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// hold moves what is in the buffer to the gate. Once a message is admitted, it gives everything
// that was held back to the reader, so that all of it is relayed as if it came only now.
func (d *direction) hold() error {
	g := d.gate
	g.part = append(g.part, d.buf[d.start:d.end]...)
	d.start = d.end
	in := g.part
	for {
		h, ok := parseHeader(in)
		if !ok {
			break
		}
		if bad := d.grammar.check(h); bad != nil {
			return bad
		}
		if h.length > admitLimit-int64(len(g.held)) {
			return &violation{
				code: ClosePolicyViolation,
				text: fmt.Sprintf("no right credentials in the first %d bytes", admitLimit),
			}
		}
		size := h.size + int(h.length)
		if len(in) < size {
			break
		}
		whole := in[:size]
		in = in[size:]

		payload := append([]byte(nil), whole[h.size:]...)
		if h.masked {
			mask(payload, h.key)
		}
		if h.control() {
			if err := d.controlAtGate(h, payload); err != nil {
				return err
			}
			continue
		}
		g.held = append(g.held, whole...)
		admitted, err := d.judge(h, payload)
		if err != nil {
			return err
		}
		if admitted {
			d.reader = &bufferedReader{buffered: append(g.held, in...), then: d.reader}
			d.grammar.beginMessage()
			d.closeGate(true)
			return nil
		}
	}
	g.part = append(g.part[:0], in...)
	return nil
}

// controlAtGate handles a control frame at the gate. A Close frame ends the pair,
// but its words are held back like everything else, and others go in their place.
func (d *direction) controlAtGate(h header, payload []byte) error {
	switch h.opcode {
	case opPing:
		return d.answer(payload)
	case opClose:
		code, text, bad := parseClose(payload)
		if bad != nil {
			return bad
		}
		return closeFrame{
			payload: closePayload(CloseGoingAway, d.from.name+" left before it was admitted"),
			code:    code,
			text:    text,
		}
	}
	return nil
}

// judge adds the payload of a data frame to its message and, if the frame ends
// the message, has it judged.
func (d *direction) judge(h header, payload []byte) (admitted bool, err error) {
	g := d.gate
	g.message = append(g.message, payload...)
	if !d.grammar.accept(h) {
		return false, nil
	}
	admitted, err = g.admit(g.message)
	g.message = g.message[:0]
	if err != nil {
		return false, &violation{code: ClosePolicyViolation, text: err.Error()}
	}
	return admitted, nil
}
