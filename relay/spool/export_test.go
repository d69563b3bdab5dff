package spool

import "github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"

// For the tests outside of the package.
const (
	MaxDelayWhileDown = maxDelayWhileDown
	MaxPatience       = maxPatience
)

// TestHooks lets a test listen to an inbox that exists already, before it does anything.
func (in *Inbox) TestHooks() *Hooks { return &in.hooks }

// Unseal decrypts the header of a message.
func Unseal(k *seal.Keys, msg *Message) error {
	_, err := unseal(k, msg)
	return err
}
