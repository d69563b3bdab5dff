//go:build unix

package database

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// Of several hosts, and of those that a name stands for, the one is found that can be written to.

// A machine that is gone does not refuse connections: it does not answer.
func TestAHostThatDoesNotAnswerLeavesTimeForTheNextOne(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	_, silentPort, err := net.SplitHostPort(silent.Addr().String())
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(testpostgres.New(t).Address())
	require.NoError(t, err)
	dsn := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%s,%s user=postgres sslmode=disable "+
		"target_session_attrs=read-write", silentPort, port)
	d := open(t, dsn, DefaultSchema, func(err error) { t.Error(err) }) // it is never away
	for i := range 3 {
		require.NoError(t, write(d, fmt.Sprint(i)))
	}
}

// The name of a database may mean another server from one moment to the next, while the one that it
// meant is there as a standby.
func TestANameThatMeansAnotherServerNowIsFollowed(t *testing.T) {
	primary, standby := testpostgres.NewPair(t)
	var means atomic.Pointer[testpostgres.Server]
	means.Store(standby)
	address := forward(t, means.Load)
	dsn := strings.Replace(standby.DSN(), standby.Address(), address, 1)
	problems := make(chan error, 10)
	d := open(t, dsn, DefaultSchema, func(err error) { problems <- err })
	require.ErrorContains(t, <-problems, "read-only")
	means.Store(primary)
	writeAtLast(t, d, "first")
}

// forward passes connections on to a server, and returns its address.
func forward(t *testing.T, server func() *testpostgres.Server) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	pass := func(client net.Conn) {
		defer func() { _ = client.Close() }()
		to, err := net.Dial("tcp", server().Address())
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(to, client)
			_ = to.Close()
		}()
		_, _ = io.Copy(client, to)
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(client)
		}
	}()
	return listener.Addr().String()
}

// Whoever forgot to say which of the servers it is to be can say so with a reload.
func TestWhichHostIsWantedCanChange(t *testing.T) {
	primary, standby := testpostgres.NewPair(t)
	dsn := testpostgres.PairDSN(standby, primary)
	without, attribute, found := strings.Cut(dsn, " target_session_attrs")
	require.True(t, found)
	problems := make(chan error, 10)
	d := open(t, without, DefaultSchema, func(err error) { problems <- err })
	require.ErrorContains(t, <-problems, "target_session_attrs=read-write")
	require.NoError(t, d.Use(without+" target_session_attrs"+attribute))
	writeAtLast(t, d, "first")
}
