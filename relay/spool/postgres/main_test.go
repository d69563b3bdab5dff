//go:build unix

package postgres

import (
	"testing"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

func TestMain(m *testing.M) { testpostgres.Main(m) }
