//go:build unix

package postgres

import (
	"flag"
	"testing"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// modelChecks is how many sequences of operations are compared with the model: each takes a schema of
// its own, and the store on disk is compared over more of them.
const modelChecks = "20"

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", modelChecks); err != nil {
		panic(err)
	}
	testpostgres.Main(m)
}
