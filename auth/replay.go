// A body that was read in part, and is read again from its beginning.

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
	// firstRead is enough for a body that has its metadata first, as those of
	// pre-recorded audio do.
	firstRead = 4 << 10

	// maxBodyMemory bounds how much of a body is held in memory while its secret
	// is searched. What comes before it goes to a temporary file.
	maxBodyMemory = 64 << 10
)

// replayBody yields what was read of a body, then the rest of it.
type replayBody struct {
	file   *bodyFile // what came first, if it did not fit in memory
	unread io.Reader // what is still to be read of the file
	memory []byte    // what came after it
	err    error     // with which rest ended, if it did while memory was filled
	rest   io.ReadCloser
	share  *share // of the room for files

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

// fill reads once from the rest into memory, and returns what is new there.
func (b *replayBody) fill() ([]byte, error) {
	before := len(b.memory)
	n, err := b.rest.Read(b.memory[before:cap(b.memory)])
	b.memory = b.memory[:before+n]
	b.err = err
	return b.memory[before:], err
}

// makeRoom enlarges the memory when it is full; once it is as large as may be,
// what it holds goes to the file.
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

// Read yields the file, then the memory, then the rest.
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

// Close may be called while Read is running, as net/http's transport does.
func (b *replayBody) Close() error {
	b.release()
	return b.rest.Close()
}

// release gives back the file, and the room for it.
func (b *replayBody) release() {
	if b.file != nil {
		b.file.release()
	}
	b.share.giveBack()
}

// bodyFile is the temporary file for the beginning of a body.
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
	// where an open file can be unlinked, nothing of it outlives the process;
	// where it cannot, release does it
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
