package stream_test

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// The two connections of a pair are given to it after their handshakes. Here the
// caller sends one message, and its connection breaks off.
func ExampleStart() {
	atCaller, caller := net.Pipe()
	atBackend, backend := net.Pipe()
	ended := make(chan stream.End, 1)
	pair := stream.Start(
		stream.Endpoint{Conn: caller},
		stream.Endpoint{Conn: backend},
		stream.Options{
			MaxMessage:   1 << 20,
			PingInterval: 20 * time.Second,
			PongTimeout:  10 * time.Second,
			WriteTimeout: 10 * time.Second,
			CloseTimeout: 5 * time.Second,
		},
		func(end stream.End) { ended <- end },
	)

	go func() {
		// a text frame, masked with zeros
		_, _ = atCaller.Write(append([]byte{0x81, 0x80 | 5, 0, 0, 0, 0}, "hello"...))
		_ = atCaller.Close()
	}()
	fmt.Printf("the backend receives %q\n", readFrame(atBackend))
	farewell := readFrame(atBackend) // a Close frame: two bytes of code, then words
	fmt.Printf("the backend is told %d, %q\n", int(farewell[0])<<8|int(farewell[1]), farewell[2:])
	_ = atBackend.Close()

	end := <-ended
	fmt.Printf("ended by the %s: %s\n", end.By, end.Reason)
	fmt.Printf("%d message came from the caller\n", pair.FromCaller().Messages)

	// Output:
	// the backend receives "hello"
	// the backend is told 1001, "caller gone"
	// ended by the caller: dropped
	// 1 message came from the caller
}

// readFrame returns the payload of a short masked frame.
func readFrame(from io.Reader) []byte {
	header := make([]byte, 6) // opcode, length, mask
	if _, err := io.ReadFull(from, header); err != nil {
		panic(err)
	}
	payload := make([]byte, header[1]&0x7f)
	if _, err := io.ReadFull(from, payload); err != nil {
		panic(err)
	}
	for i := range payload {
		payload[i] ^= header[2+i%4]
	}
	return payload
}
