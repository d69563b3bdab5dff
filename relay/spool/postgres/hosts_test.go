//go:build unix

package postgres

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// Of several hosts, and of those that a name stands for, the store finds the one that can be written
// to.

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
	var problems atomic.Int64
	options := Options{}
	options.Events.Problem = func(err error) { t.Log(err); problems.Add(1) }
	s := openTest(t, dsn, options)
	for i := range 3 {
		_, err := put(context.Background(), s, 1, fmt.Sprint(i))
		require.NoError(t, err)
	}
	require.Zero(t, problems.Load(), "it was never away")
	require.NoError(t, s.Close(context.Background()))
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
	options := Options{}
	options.Events.Problem = func(err error) { problems <- err }
	s := openTest(t, dsn, options)
	require.ErrorContains(t, <-problems, "read-only")
	means.Store(primary)
	putAtLast(t, s, "first")
	require.NoError(t, s.Close(context.Background()))
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
	options := Options{}
	options.Events.Problem = func(err error) { problems <- err }
	s := openTest(t, without, options)
	require.ErrorContains(t, <-problems, "target_session_attrs=read-write")
	require.NoError(t, s.Reconfigure(&Module{dsn: without + " target_session_attrs" + attribute}))
	putAtLast(t, s, "first")
	require.NoError(t, s.Close(context.Background()))
}
