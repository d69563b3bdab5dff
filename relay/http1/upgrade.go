// Changing the protocol of a connection.

package http1

import (
	"context"
	"net"
	"net/http"
	"slices"
)

// upgradeBuffer is the size of the buffer for an answer behind which another protocol begins: enough
// for the head of most.
const upgradeBuffer = 1 << 10

// Upgrade sends a request that asks for another protocol (RFC 9110, section 7.8), such as the opening
// handshake of a WebSocket, on a connection of its own: one that was used before might be closed by
// the service at that very moment. If the service agrees, by a 101, conn is the connection, which
// is the caller's from then on, and buffered what was read behind the head; the end of r's context
// changes nothing any more. Any other answer is as that of RoundTrip, and conn is nil.
func (c *Client) Upgrade(r *http.Request, to Address) (
	res *http.Response, conn net.Conn, buffered []byte, err error,
) {
	request, err := c.prepare(r)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			request.release()
		}
	}()
	raw, err := c.Dial(r.Context(), to.Network, to.Address)
	if err != nil {
		request.abandon()
		return nil, nil, nil, err
	}
	fresh := newConn(c, raw, to, upgradeBuffer)
	if res, err = fresh.ask(request); err != nil {
		if cause := context.Cause(r.Context()); cause != nil {
			err = cause
		}
		return nil, nil, nil, err
	}
	res.Request = r
	if res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = newAnswerBody(fresh, request, res)
		return res, nil, nil, nil
	}
	if !fresh.stop() { // which has closed the connection
		return nil, nil, nil, context.Cause(r.Context())
	}
	buffered, _ = fresh.reader.Peek(fresh.reader.Buffered())
	return res, raw, slices.Clone(buffered), nil
}
