package stream

import (
	"fmt"
	"time"
)

// What an end may send, and for how long, before a message of it has to have
// carried the right credentials.
const (
	admitLimit  = 64 << 10
	admitWithin = 30 * time.Second
)

// A gate holds back what comes from one end until a message admits it.
type gate struct {
	admit Admit
	timer *time.Timer

	held    []byte // everything that came, frame by frame
	next    int    // in held, the first frame not looked at yet
	message []byte // the data of the message that held[:next] ends in, unmasked
}

// openGate starts the time within which the end of d has to be admitted.
func (d *direction) openGate(admit Admit) {
	d.gate = &gate{admit: admit}
	d.gate.timer = time.AfterFunc(admitWithin, func() {
		d.pair.failed(d.from, d.to, d.refusal("no right credentials in time"), ClosePolicyViolation, "no right credentials in time")
	})
}

func (d *direction) refusal(text string) End {
	return End{Reason: EndRefused, Code: CloseInternalError, Text: d.from.name + ": " + text}
}

// hold takes what is in the buffer to the gate, and once a message is
// admitted gives everything that was held back to the reader, so that it is
// relayed as if it came only now.
func (d *direction) hold() error {
	g := d.gate
	g.held = append(g.held, d.buf[d.start:d.end]...)
	d.start = d.end
	if len(g.held) > admitLimit {
		return &violation{code: ClosePolicyViolation, text: fmt.Sprintf("no right credentials in the first %d bytes", admitLimit)}
	}
	for {
		h, ok := parseHeader(g.held[g.next:])
		if !ok {
			return nil
		}
		if bad := d.grammar.check(h); bad != nil {
			return bad
		}
		end := g.next + h.size + int(min(h.length, admitLimit))
		if end > len(g.held) {
			return nil
		}
		payload := append([]byte(nil), g.held[g.next+h.size:end]...)
		if h.masked {
			mask(payload, h.key)
		}
		g.next = end

		admitted, err := d.inspect(h, payload)
		if err != nil {
			return err
		}
		if admitted {
			g.timer.Stop()
			d.reader = &bufferedReader{buffered: g.held, then: d.reader}
			d.grammar.inMessage, d.grammar.length = false, 0
			d.gate = nil
			return nil
		}
	}
}

// inspect looks at one frame at the gate. Pings are answered here meanwhile:
// their sender must not take the other end's not hearing of it for its death.
func (d *direction) inspect(h header, payload []byte) (admitted bool, err error) {
	g := d.gate
	switch h.opcode {
	case opClose:
		code, text, bad := parseClose(payload)
		if bad != nil {
			return false, bad
		}
		return false, closeFrame{payload: payload, code: code, text: text}
	case opPing:
		d.from.pong(payload, d.pair.options.WriteTimeout)
		return false, nil
	case opPong:
		return false, nil
	}
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
