package stream

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// What an end may send, and for how long, before a message of it has to have
// carried the right credentials.
const (
	admitLimit  = 64 << 10
	admitWithin = 30 * time.Second
)

// A gate holds back what comes from one end, and what goes to it, until a
// message admits it. The fields but the last two are touched only by the
// direction that comes from that end.
type gate struct {
	admit Admit
	timer *time.Timer

	held    []byte // the data frames that came
	part    []byte // the frame behind them, of which not all has come yet
	message []byte // the data of the message that held ends in, unmasked

	admitted bool          // set before closed is closed
	closed   chan struct{} // closed when it is known whether the end is admitted
}

// openGate starts the time within which the end of d has to be admitted.
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

// closeGate ends the gate, if there is one, with its decision. It keeps
// nothing of what it held, nor of whoever judged that.
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

// lookAtGate is how often a direction that has something for an end behind a
// gate looks whether it may go there.
const lookAtGate = 100 * time.Millisecond

// awaitGate waits until the end that d goes to is admitted, or never will be.
// Meanwhile it reads on, to notice if the end that it comes from is gone; beyond
// a full buffer, that has to wait too.
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

// decided reports whether the end behind the gate is admitted or refused.
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

// hold takes what is in the buffer to the gate, and once a message is
// admitted gives everything that was held back to the reader, so that it is
// relayed as if it came only now.
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

// controlAtGate handles a control frame at the gate. A Close frame ends the
// pair, but the words in it stay here like everything else.
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

// judge takes one data frame and, if it ends a message, has that judged.
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
