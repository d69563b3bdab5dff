// How a pair ends where the gateway's own code panics.

package stream

import (
	"fmt"
	"runtime/debug"
)

// Panic is the Err of an [End] whose reason is EndFault.
type Panic struct {
	Value any
	Stack []byte
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// guard is deferred by everything that runs on a goroutine of the pair's own, where a panic would
// end the process and every other stream in it. With guard, the panic ends this pair alone.
func (p *Pair) guard() {
	if value := recover(); value != nil {
		p.fault(&Panic{Value: value, Stack: debug.Stack()})
	}
}

// fault ends the pair because the gateway's own code panicked, which counts as the pair's end even
// where something else has begun to end it. Both legs are told, without waiting for that. After a
// second panic there is nothing left to save.
func (p *Pair) fault(cause *Panic) {
	const text = "an error in the gateway"
	p.mu.Lock()
	again := p.end != nil && p.end.Reason == EndFault
	if !again {
		p.end = &End{By: ByGateway, Reason: EndFault, Code: CloseInternalError, Text: text, Err: cause}
		p.timer.Stop()
	}
	p.mu.Unlock()
	if again {
		return
	}
	p.endWithin(settle)
	go func() {
		defer p.guard()
		for _, l := range []*leg{&p.caller, &p.backend} {
			l.sendClose(closePayload(CloseInternalError, text), settle)
			l.finish()
		}
	}()
}
