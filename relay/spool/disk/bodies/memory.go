// Pooled memory for bodies of ordinary size.

package bodies

import (
	"math/bits"
	"sync"
)

const (
	minBufferBits = 12 // 4 KiB
	maxBufferBits = 16 // MaxSmall
)

// buffer is a piece of pooled memory.
type buffer struct {
	b     []byte
	class int
}

// buffers has a pool for each power of two from 4 KiB to 64 KiB.
var buffers [maxBufferBits - minBufferBits + 1]sync.Pool

// getBuffer returns a buffer for size bytes, at most MaxSmall.
func getBuffer(size int) *buffer {
	class := max(bits.Len(uint(max(size, 1)-1))-minBufferBits, 0)
	if pooled, ok := buffers[class].Get().(*buffer); ok {
		return pooled
	}
	return &buffer{b: make([]byte, 1<<(class+minBufferBits)), class: class}
}

func (b *buffer) free() { buffers[b.class].Put(b) }
