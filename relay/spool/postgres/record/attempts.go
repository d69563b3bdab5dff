// The attempts to deliver a message, as JSON.

package record

import (
	"encoding/json"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// errHistory stands for attempts that cannot be read: a message is delivered without them.
const errHistory = "the record of earlier attempts cannot be read"

// EncodeAttempts writes attempts as JSON that the database takes.
func EncodeAttempts(attempts []spool.Attempt) (*string, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	plain := make([]spool.Attempt, len(attempts))
	for i, a := range attempts {
		a.Error, a.Upstream = spool.ClipError(a.Error), spool.ClipError(a.Upstream)
		a.Gateway = spool.ClipError(a.Gateway)
		plain[i] = a
	}
	b, err := json.Marshal(plain)
	text := string(b)
	return &text, err
}

// decodeAttempts reads attempts. Of those that cannot be read it says so, as of one at that time.
func decodeAttempts(text string, at time.Time) []spool.Attempt {
	var attempts []spool.Attempt
	if err := json.Unmarshal([]byte(text), &attempts); err != nil {
		return []spool.Attempt{{At: at, Error: errHistory}}
	}
	return attempts[max(0, len(attempts)-spool.MaxAttempts):]
}
