// Package http1 makes round trips to services that speak plain HTTP/1.1, as
// right as net/http's transport and for less. That one keeps two goroutines for
// each connection and hands every request from one to the other; here the
// goroutine of a small request writes and reads itself, which saves about a
// third of the processor time that relaying a callback of 16 KB costs.
//
// The grammar is net/http's own: requests are written by [http.Request.Write],
// answers read by [http.ReadResponse]. What is added is what a transport does
// around that, and this is its contract:
//
//   - The body comes first, then the connection. Up to 64 KiB of a body are read
//     before a connection is dialled or taken: a slow sender holds no service
//     up, and of a small request that breaks off nothing reaches the service.
//   - A request that cannot be written, or whose body fails, is a [RequestError],
//     which says nothing about the service.
//   - An answer counts whenever it comes, also while the body is still being
//     sent, and when sending it fails because the service has closed already.
//   - A connection is used again once an answer was read to its end, nothing
//     came behind it, the request was sent whole and neither side asked to close.
//     One that its service has closed meanwhile, or on which it said something
//     unasked, is not taken.
//   - Where a connection that was used before fails all the same, without a byte
//     of an answer, the request is sent again on another one if that is safe:
//     nothing was written of it, or its method is safe (RFC 9110, section 9.2.1)
//     or it carries an Idempotency-Key. And its body is in memory, or it has none.
//   - Idle connections are limited as a whole and for each address, and closed
//     when their time is over.
//   - Interim answers (1xx) go to the request's [httptrace.ClientTrace]. There
//     may be [MaxInterim] of them, and the limit for the head of an answer is one
//     for all: net/http leaves that to whoever listens to them.
//   - When the context of a request ends, its connection is closed, until the
//     answer has been read.
//
// It does not upgrade connections, speaks to no proxy, and leaves deadlines
// other than that for an answer's head to the connections it is given. Where
// nobody can tell whether an idle connection is still open, it cannot be used;
// see [Supported].
//
//	client.go   what is above, and the order of a round trip: read this first
//	request.go  a request as it goes over the wire
//	conn.go     one exchange on one connection
//	answer.go   the body of an answer, which gives its connection back
//	pool.go     idle connections
//	socket*.go  what only the socket can tell
package http1

import (
	"context"
	"net"
	"net/http"
	"time"
)

// A Client makes round trips. Its fields are set before its first.
type Client struct {
	// Dial opens a connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// HeadTimeout is how long a service may take for the head of its answer
	// once it was sent the request. Zero is no limit.
	HeadTimeout time.Duration

	// MaxHead is how many bytes the head of an answer may have. Zero is 10 MiB.
	MaxHead int64

	// Compress asks for answers in gzip, where a request says nothing of its
	// own about that, and unpacks them.
	Compress bool

	// MaxIdle is how many idle connections are kept, and MaxIdlePerAddress how
	// many of them to one address. A MaxIdle of zero is no limit.
	MaxIdle, MaxIdlePerAddress int

	// IdleTimeout is how long an idle connection is kept. Zero is no limit.
	IdleTimeout time.Duration

	idle pool
}

// An Address is where a connection leads.
type Address struct{ Network, Address string }

// A RequestError is an error of the request itself, for which no service is to
// blame: it cannot be written, or its body could not be read.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// RoundTrip sends r to an address and returns the answer, as a
// [http.RoundTripper] does.
func (c *Client) RoundTrip(r *http.Request, to Address) (*http.Response, error) {
	request, err := c.prepare(r)
	if err != nil {
		return nil, err
	}
	for {
		conn, err := c.connect(r.Context(), to)
		if err != nil {
			request.abandon()
			request.release()
			return nil, err
		}
		res, err := conn.exchange(request)
		if err == nil {
			res.Request = r
			return res, nil
		}
		if cause := context.Cause(r.Context()); cause != nil {
			err = cause
		} else if conn.used && request.repeatable(conn) {
			continue
		}
		request.release()
		return nil, err
	}
}

// connect takes an idle connection, or else opens one.
func (c *Client) connect(ctx context.Context, to Address) (*conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if idle := c.idle.take(to, c.IdleTimeout); idle != nil {
		return idle, nil
	}
	raw, err := c.Dial(ctx, to.Network, to.Address)
	if err != nil {
		return nil, err
	}
	return newConn(c, raw, to), nil
}

// Close closes the idle connections, and those in use when they are done.
func (c *Client) Close() { c.idle.close() }
