// Package webhook signs deliveries, so that a service can tell them from what somebody else sends it,
// after the Standard Webhooks specification
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The fields that Standard Webhooks adds to a request.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

const (
	secretPrefix = "whsec_"

	// The specification asks for keys of 24 to 64 bytes.
	minSecretBytes = 24
	maxSecretBytes = 64
)

// Signer signs deliveries with HMAC-SHA256 ("v1"), once per secret, so that
// secrets can be rotated: the service accepts any signature that fits.
type Signer struct{ keys [][]byte }

// NewSigner takes secrets of the form whsec_ and base64. The error does not show
// a secret, only which one of them is wrong.
func NewSigner(secrets ...string) (*Signer, error) {
	s := &Signer{}
	for i, secret := range secrets {
		key, err := parseSecret(secret)
		if err != nil {
			return nil, fmt.Errorf("signing secret %d of %d: %w", i+1, len(secrets), err)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

func parseSecret(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return nil, errors.New("does not begin with " + secretPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("is not base64 after " + secretPrefix)
	}
	if len(key) < minSecretBytes || len(key) > maxSecretBytes {
		return nil, fmt.Errorf(
			"has %d bytes instead of %d to %d",
			len(key),
			minSecretBytes,
			maxSecretBytes,
		)
	}
	return key, nil
}

// String hides the secrets.
func (s *Signer) String() string { return fmt.Sprintf("Signer(%d secrets)", len(s.keys)) }

// GoString hides the secrets.
func (s *Signer) GoString() string { return s.String() }

// Sign sets webhook-id, webhook-timestamp and, if there are secrets, webhook-signature on header. id
// is that of the message, the same whenever it is delivered again. For the signature the body is read
// once, without keeping it, and rewound. A nil Signer has no secrets.
func (s *Signer) Sign(header http.Header, id string, body io.ReadSeeker, now time.Time) error {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	header.Set(HeaderID, id)
	header.Set(HeaderTimestamp, timestamp)
	header.Del(HeaderSignature)
	if s == nil || len(s.keys) == 0 {
		return nil
	}

	macs, err := s.digest(id, timestamp, body)
	if err != nil {
		return fmt.Errorf("sign message %s: %w", id, err)
	}
	signatures := make([]string, len(macs))
	for i, mac := range macs {
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	header.Set(HeaderSignature, strings.Join(signatures, " "))
	return nil
}

// buffers are for reading bodies.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// digest reads the body once for all keys, and rewinds it. What is signed is "id.timestamp.body".
func (s *Signer) digest(id, timestamp string, body io.ReadSeeker) ([]hash.Hash, error) {
	macs := make([]hash.Hash, len(s.keys))
	writers := make([]io.Writer, len(s.keys))
	for i, key := range s.keys {
		macs[i] = hmac.New(sha256.New, key)
		writers[i] = macs[i]
	}
	all := io.MultiWriter(writers...)
	_, _ = io.WriteString(all, id+"."+timestamp+".") // a hash never fails
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	if _, err := io.CopyBuffer(all, onlyReader{body}, *buffer); err != nil {
		return nil, err
	}
	_, err := body.Seek(0, io.SeekStart)
	return macs, err
}

// onlyReader keeps io.CopyBuffer from going around the buffer.
type onlyReader struct{ io.Reader }
