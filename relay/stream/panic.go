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

// guard is deferred by all that runs in a goroutine of the pair's own, where a
// panic would end the process with every stream in it. It ends this pair alone.
func (p *Pair) guard() {
	if value := recover(); value != nil {
		p.fault(&Panic{Value: value, Stack: debug.Stack()})
	}
}

// fault ends the pair because the code of the gateway failed. Whatever ended
// the pair before is of less interest. Both legs are told where nothing is
// being written to them; a second failure has nothing left to save.
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
