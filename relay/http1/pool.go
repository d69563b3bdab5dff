// Idle connections.

package http1

import (
	"slices"
	"sync"
	"time"
)

// A pool keeps connections for the next request to the same address.
type pool struct {
	mu     sync.Mutex
	conns  []*conn     // the one that has been idle for the longest time comes first
	expiry *time.Timer // goes off when that one has been idle for too long; nil without any
	closed bool
}

// take returns the connection to an address that became idle last, of those that the service has
// not closed; nil if there is none.
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

// remove takes the connection to an address out of the pool that became idle last.
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

// put keeps a connection. If there are as many to its address as may be, it is closed instead; if
// there are as many in all, the one that has been idle for the longest time is.
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

// expire closes the connections that have been idle for the timeout, and sets the
// timer for the next one.
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

// close closes all connections, and those that are put later.
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
