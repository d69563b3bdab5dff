package http1

import (
	"slices"
	"sync"
	"time"
)

// A pool keeps connections for the next request to the same address.
type pool struct {
	mu     sync.Mutex
	conns  []*conn     // the longest idle first
	expiry *time.Timer // when the first of them has been idle for too long; nil while there is none
	closed bool
}

// take returns the connection to an address that was used last, of those that
// the service has not closed.
func (p *pool) take(to Address, timeout time.Duration) *conn {
	for {
		c := p.remove(to)
		if c == nil {
			return nil
		}
		if (timeout <= 0 || time.Since(c.since) < timeout) && stillOpen(c.raw) {
			return c
		}
		_ = c.Close()
	}
}

func (p *pool) remove(to Address) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range slices.Backward(p.conns) {
		if c.to == to {
			p.conns = slices.Delete(p.conns, i, i+1)
			return c
		}
	}
	return nil
}

// put keeps a connection. Beyond the limit for its address it is closed, and
// beyond that for all the one that has been idle for the longest time.
func (p *pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	same := 0
	for _, other := range p.conns {
		if other.to == c.to {
			same++
		}
	}
	if p.closed || same >= c.client.MaxIdlePerAddress {
		_ = c.Close()
		return
	}
	if most := c.client.MaxIdle; most > 0 && len(p.conns) >= most {
		_ = p.conns[0].Close()
		p.conns = slices.Delete(p.conns, 0, 1)
	}
	p.conns = append(p.conns, c)
	if timeout := c.client.IdleTimeout; timeout > 0 && p.expiry == nil {
		p.expiry = time.AfterFunc(timeout, func() { p.expire(timeout) })
	}
}

// expire closes what has been idle for the timeout, and comes again when the
// next one will have been.
func (p *pool) expire(timeout time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for len(p.conns) > 0 && now.Sub(p.conns[0].since) >= timeout {
		_ = p.conns[0].Close()
		p.conns = slices.Delete(p.conns, 0, 1)
	}
	if len(p.conns) == 0 {
		p.expiry = nil
		return
	}
	p.expiry.Reset(timeout - now.Sub(p.conns[0].since))
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	if p.expiry != nil {
		p.expiry.Stop()
	}
}
