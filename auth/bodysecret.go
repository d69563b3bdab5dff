// The callback secret: found in the body before anything of the body goes on.

package auth

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// firstRead is enough for a body that has its metadata first, as those of
	// pre-recorded audio do.
	firstRead = 4 << 10

	// maxBodyMemory bounds how much of a body is held in memory while its secret
	// is searched. What comes before it goes to a temporary file.
	maxBodyMemory = 64 << 10

	// maxBodyFiles bounds, over the whole process, what those temporary files
	// hold: whoever sends bodies without the secret must not fill the disk.
	maxBodyFiles = 1 << 30

	// maxEmptyReads is how often a reader may give nothing, as in package bufio.
	maxEmptyReads = 100
)

// bodyFileBytes is what the temporary files of the process hold.
var bodyFileBytes atomic.Int64

// VerifyBody reads body until it has found the callback secret, and returns a
// body that yields every byte from the first on. What was read is kept in memory
// up to 64 KiB, beyond that in a temporary file; what follows the secret streams
// straight from body. The returned body must be closed, which closes body too;
// after an error, body is as it was left, and not closed.
//
// The error is a *Refusal where the secret is missing or wrong, the body is not a
// JSON object, or there is no room to keep it; an error of body itself is wrapped
// in the error that is returned.
//
// Where no callback secret is configured, body is returned as it is.
func (p *Policy) VerifyBody(body io.ReadCloser) (io.ReadCloser, error) {
	if p.judge.body == nil {
		return body, nil
	}
	replay, err := p.judge.verifyBody(body)
	if err != nil {
		replay.releaseFile()
		return nil, err
	}
	return replay, nil
}

// VerifyMessage is VerifyBody for a message that is there as a whole, such as
// that of a WebSocket. The error is a *Refusal.
func (p *Policy) VerifyMessage(message []byte) error {
	if p.judge.body == nil {
		return nil
	}
	var scanner secretScanner
	found := scanner.scan(message)
	if found == searching && len(message) > 0 {
		found = malformed
	}
	if refusal := p.judge.refuseFinding(found, &scanner); refusal != nil {
		return refusal
	}
	return nil
}

// verifyBody returns a body that yields every byte whether the secret was right
// or not.
func (j *judge) verifyBody(body io.ReadCloser) (*replayBody, error) {
	if body == nil {
		body = http.NoBody
	}
	replay := &replayBody{rest: body, memory: make([]byte, 0, firstRead)}
	var scanner secretScanner
	for empty := 0; ; {
		if err := replay.makeRoom(); err != nil {
			return replay, err
		}
		piece, err := replay.fill()
		if found := scanner.scan(piece); found != searching {
			return replay, errorOrNil(j.refuseFinding(found, &scanner))
		}
		switch {
		case err == io.EOF && scanner.state == atBegin:
			return replay, j.refuse(ReasonCallbackSecretMissing)
		case err == io.EOF:
			return replay, j.refuse(ReasonCallbackSecretNotJSON)
		case err != nil:
			return replay, fmt.Errorf("reading the callback's body: %w", err)
		case len(piece) > 0:
			empty = 0
		default:
			if empty++; empty >= maxEmptyReads {
				return replay, fmt.Errorf("reading the callback's body: %w", io.ErrNoProgress)
			}
		}
	}
}

// refuseFinding is nil if the scanner has found a secret that is right.
func (j *judge) refuseFinding(found finding, scanner *secretScanner) *Refusal {
	switch found {
	case secretFound:
		if j.body.contains(digestOf(purposeBody, string(scanner.value))) {
			return nil
		}
		return j.refuse(ReasonCallbackSecretWrong)
	case secretUnusable:
		return j.refuse(ReasonCallbackSecretWrong)
	case malformed:
		return j.refuse(ReasonCallbackSecretNotJSON)
	default:
		return j.refuse(ReasonCallbackSecretMissing)
	}
}

// errorOrNil keeps a nil *Refusal from becoming an error that is not nil.
func errorOrNil(refusal *Refusal) error {
	if refusal == nil {
		return nil
	}
	return refusal
}

// replayBody yields what was read of a body, then the rest of it.
type replayBody struct {
	file   *bodyFile // what came first, if it did not fit in memory
	unread io.Reader // what is still to be read of the file
	memory []byte    // what came after it
	err    error     // with which rest ended, if it did while memory was filled
	rest   io.ReadCloser
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
			cause:      err,
		}
	}
	return nil
}

// store moves what memory holds to the end of the file.
func (b *replayBody) store() error {
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
			b.file.release()
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
	if b.err != nil {
		return 0, b.err
	}
	return b.rest.Read(p)
}

// Close may be called while Read is running, as net/http's transport does.
func (b *replayBody) Close() error {
	b.releaseFile()
	return b.rest.Close()
}

func (b *replayBody) releaseFile() {
	if b.file != nil {
		b.file.release()
	}
}

// bodyFile is the temporary file for the beginning of a body.
type bodyFile struct {
	file     *os.File
	unlinked bool
	written  int64
	reserved int64 // of bodyFileBytes
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
	size := int64(len(p))
	f.reserved += size
	if bodyFileBytes.Add(size) > maxBodyFiles {
		return errors.New("too many bodies are being searched for their secret")
	}
	if _, err := f.file.Write(p); err != nil {
		return err
	}
	f.written += size
	return nil
}

func (f *bodyFile) release() {
	f.released.Do(func() {
		_ = f.file.Close()
		if !f.unlinked {
			_ = os.Remove(f.file.Name())
		}
		bodyFileBytes.Add(-f.reserved)
	})
}

// Interface guard
var _ io.ReadCloser = (*replayBody)(nil)

// BodySecretMissing is the refusal of a callback that shows no credential but,
// perhaps, the one in its body, where the body comes too late to decide: a
// WebSocket's messages come after its handshake.
func (p *Policy) BodySecretMissing() *Refusal { return p.judge.refuse(ReasonCallbackSecretMissing) }
