package seal

import (
	"bytes"
	"errors"
	"io"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

const (
	// HeadSize is the size of what is before a body's first segment: its length, the salt from which
	// the body's own key is derived, and the beginning of nonces.
	HeadSize = 1 + keySize + subtle.AESGCMHKDFNoncePrefixSizeInBytes

	// segmentSize is that of an encrypted segment, the first one with the head.
	segmentSize = 4 << 10
	tagSize     = subtle.AESGCMHKDFTagSizeInBytes
)

// PlainSize is the size of a body of which that of its encrypted form is known.
func PlainSize(encrypted int64) int64 {
	segments := max((encrypted+segmentSize-1)/segmentSize, 1)
	return max(encrypted-HeadSize-segments*tagSize, 0)
}

// Writer encrypts a body.
type Writer struct {
	plain  io.WriteCloser
	stored *stored
}

// NewWriter returns what encrypts a body on its way to w.
func (k *Key) NewWriter(w io.Writer) (*Writer, error) {
	stored := &stored{Writer: w, head: make([]byte, 0, HeadSize)}
	plain, err := k.body.NewEncryptingWriter(stored, nil)
	if err != nil {
		return nil, err
	}
	return &Writer{plain, stored}, nil
}

// Write encrypts a part of the body.
func (w *Writer) Write(part []byte) (int, error) { return w.plain.Write(part) }

// Close ends the body. What it is written to stays open.
func (w *Writer) Close() error { return w.plain.Close() }

// Head is how the encrypted body begins: like no other one.
func (w *Writer) Head() []byte { return w.stored.head }

// stored takes the encrypted form of a body, and remembers how it begins.
type stored struct {
	io.Writer
	head []byte
}

func (s *stored) Write(part []byte) (int, error) {
	if missing := cap(s.head) - len(s.head); missing > 0 {
		s.head = append(s.head, part[:min(missing, len(part))]...)
	}
	return s.Writer.Write(part)
}

// NewReader decrypts a body from its beginning on. It fails where that is not the head which the
// [Writer] of the body had. To read fails where something was changed, is missing or was added.
func (k *Key) NewReader(stored io.ReadSeeker, head []byte) (io.Reader, error) {
	if _, err := stored.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	begin := make([]byte, HeadSize)
	if _, err := io.ReadFull(stored, begin); err != nil || !bytes.Equal(begin, head) {
		return nil, errOtherBody
	}
	return k.body.NewDecryptingReader(io.MultiReader(bytes.NewReader(begin), stored), nil)
}

var errOtherBody = errors.New("its body is another one")
