package memory_test

import (
	"testing"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

func TestTheContract(t *testing.T) {
	storetest.Run(t, storetest.Factory{New: func(testing.TB) func() spool.Store {
		place := memory.NewPlace()
		return func() spool.Store { return place.Open() }
	}})
}
