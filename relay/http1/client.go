// Package http1 makes round trips to services that speak plain HTTP/1.1, as
// correctly as net/http's transport and for less. That transport has two
// goroutines for each connection, and hands every request from one to the other.
// Here, the goroutine that sends a small request writes and reads by itself, which
// saves about a third of the processor time that relaying a callback of 16 KB
// costs.
//
// The grammar is net/http's own: requests are written by [http.Request.Write],
// answers are read by [http.ReadResponse]. What a transport does beside that is
// done here, and this is the contract:
//
//   - The body comes before the connection. Up to 64 KiB of a body are read
//     before a connection is dialled or taken from the pool: a slow sender does
//     not hold up the service, and of a small request that breaks off nothing
//     reaches the service.
//   - The error of a request that cannot be written, or whose body cannot be
//     read, is a [RequestError], which says nothing about the service.
//   - An answer counts whenever it comes: also while the body is still being
//     sent, and after sending has failed because the service has closed.
//   - A connection is used again after an answer was read to its end, if nothing
//     came behind it, the request was sent to its end, and neither side has asked
//     to close. It is not used again if the service has closed it meanwhile, or
//     has sent something unasked.
//   - If a connection that is used again fails without a byte of an answer, the
//     request is sent again on another one, where that is safe: nothing of it was
//     written, its method is safe (RFC 9110, section 9.2.1), or it has an
//     Idempotency-Key. And its body has to be in memory, if it has one.
//   - Idle connections are limited, in all and for each address, and are closed
//     after a time.
//   - Interim answers (1xx) go to the request's [httptrace.ClientTrace]. There
//     may be [MaxInterim] of them, and the limit for the head of an answer is for
//     all of them together.
//   - When the context of a request ends before the answer has been read to its
//     end, the connection is closed.
//
// It speaks to no proxy, and the only deadline that it sets is the one for the head
// of an answer. It cannot be used on platforms that do not tell whether an idle
// connection is still open: see [Supported].
//
//	client.go   this contract, and the order of a round trip: read this first
//	request.go  a request as it is written
//	conn.go     one exchange on one connection
//	answer.go   the body of an answer, which gives its connection back
//	upgrade.go  changing the protocol of a connection
//	pool.go     idle connections
//	socket*.go  asking the socket what it would do without waiting
package http1

import (
	"context"
	"net"
	"net/http"
	"time"
)

// A Client makes round trips. Its fields must not be changed after the first one.
// It may be used from several goroutines.
type Client struct {
	// Dial opens a connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// HeadTimeout is how long a service may take for the head of its answer,
	// after it was sent the request. Zero is no limit.
	HeadTimeout time.Duration

	// MaxHead is how many bytes the head of an answer may have. Zero is 10 MiB.
	MaxHead int64

	// Compress asks for answers in gzip, unless a request has its own
	// Accept-Encoding, and unpacks them.
	Compress bool

	// MaxIdle is how many idle connections are kept, and MaxIdlePerAddress how
	// many of them to one address. A MaxIdle of zero is no limit, and with a
	// MaxIdlePerAddress of zero none are kept.
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

// RoundTrip sends r to an address and returns the answer, as an [http.RoundTripper]
// does. It blocks until the head of the answer is there.
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

// connect takes an idle connection or, without one, dials.
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
	return newConn(c, raw, to, answerBuffer), nil
}

// Close closes the idle connections. Those in use are closed when their answers have
// been read.
func (c *Client) Close() { c.idle.close() }
