// A body that is read in part and then again from its beginning.

package auth

import (
	"io"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// firstRead is how much of a body is read at first: enough to find the secret
	// where the metadata comes first, as for pre-recorded audio.
	firstRead = 4 << 10

	// maxBodyMemory is how much of a body is kept in memory while its secret is
	// searched. When that is full, it goes to a temporary file.
	maxBodyMemory = 64 << 10
)

// replayBody yields what was read of a body by fill, and then the rest of it.
type replayBody struct {
	file   *bodyFile     // what came first, if memory was too small for it
	unread io.Reader     // what Read has not yielded yet of the file
	memory []byte        // what came after that
	err    error         // the error that rest has ended with already, if any
	rest   io.ReadCloser // the original body
	share  *share        // what the file takes of the room for all of them

	replayed bool // everything that was kept has been read
}

func newReplayBody(body io.ReadCloser, address netip.Prefix) *replayBody {
	if body == nil {
		body = http.NoBody
	}
	return &replayBody{
		rest:   body,
		memory: make([]byte, 0, firstRead),
		share:  &share{of: bodyRoom, address: address},
	}
}

// fill reads once from the rest into memory, and returns what it has read. It
// blocks until the sender has sent some of it.
func (b *replayBody) fill() ([]byte, error) {
	before := len(b.memory)
	n, err := b.rest.Read(b.memory[before:cap(b.memory)])
	b.memory = b.memory[:before+n]
	b.err = err
	return b.memory[before:], err
}

// makeRoom makes room in memory for the next fill: it enlarges a full memory up to
// its limit, and then moves what it holds to the file.
func (b *replayBody) makeRoom() error {
	if len(b.memory) < cap(b.memory) {
		return nil
	}
	if cap(b.memory) < maxBodyMemory {
		grown := make([]byte, len(b.memory), min(4*cap(b.memory), maxBodyMemory))
		copy(grown, b.memory)
		b.memory = grown
		return nil
	}
	if err := b.store(); err != nil {
		return &Refusal{
			Status:     http.StatusServiceUnavailable,
			RetryAfter: 30 * time.Second, // when Deepgram retries anyway
			Reason:     ReasonCallbackSecretStorage,
			Cause:      err,
		}
	}
	return nil
}

// store moves what memory holds to the end of the file.
func (b *replayBody) store() error {
	if err := b.share.take(int64(len(b.memory))); err != nil {
		return err
	}
	if b.file == nil {
		file, err := newBodyFile()
		if err != nil {
			return err
		}
		b.file = file
	}
	if err := b.file.append(b.memory); err != nil {
		return err
	}
	b.memory = b.memory[:0]
	b.unread = io.NewSectionReader(b.file.file, 0, b.file.written)
	return nil
}

// Read yields what is in the file, what is in memory, and then the rest.
func (b *replayBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.unread != nil {
		n, err := b.unread.Read(p)
		if err == io.EOF {
			b.unread, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	if len(b.memory) > 0 {
		n := copy(p, b.memory)
		b.memory = b.memory[n:]
		return n, nil
	}
	if !b.replayed {
		b.replayed = true
		b.release()
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.rest.Read(p)
}

// Close may be called while Read is running, as net/http's transport does, and
// more than once.
func (b *replayBody) Close() error {
	b.release()
	return b.rest.Close()
}

// release removes the file and gives back its room. It may be called more than
// once.
func (b *replayBody) release() {
	if b.file != nil {
		b.file.release()
	}
	b.share.giveBack()
}

// bodyFile is a temporary file with the beginning of a body.
type bodyFile struct {
	file     *os.File
	unlinked bool
	written  int64
	released sync.Once
}

func newBodyFile() (*bodyFile, error) {
	file, err := os.CreateTemp("", "deepgram_callback-*")
	if err != nil {
		return nil, err
	}
	// Where the platform can unlink an open file, nothing of it outlives the
	// process. Elsewhere, release removes it.
	unlinked := os.Remove(file.Name()) == nil
	return &bodyFile{file: file, unlinked: unlinked}, nil
}

func (f *bodyFile) append(p []byte) error {
	n, err := f.file.Write(p)
	f.written += int64(n)
	return err
}

func (f *bodyFile) release() {
	f.released.Do(func() {
		_ = f.file.Close()
		if !f.unlinked {
			_ = os.Remove(f.file.Name())
		}
	})
}

// Interface guard
var _ io.ReadCloser = (*replayBody)(nil)
