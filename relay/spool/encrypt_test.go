package spool_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// keyText is the text form of a key that tests know by a letter.
func keyText(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte("a key of tests that is known as " + letter)[1:])
}

func keys(t testing.TB, letters ...string) *seal.Keys {
	t.Helper()
	var texts []string
	for _, letter := range letters {
		texts = append(texts, keyText(letter))
	}
	k, err := seal.NewKeys(texts...)
	require.NoError(t, err)
	return k
}

// secretCallback is one of which the store is to see neither the body nor the header.
func secretCallback(t testing.TB, in *spool.Inbox, size int) (receipt spool.Receipt, body string) {
	t.Helper()
	body = strings.Repeat("the secret text ", size/16+1)[:size]
	receipt, err := in.Accept(context.Background(), spool.Envelope{
		Route: "r", Method: "POST", URI: "/hook?a=b",
		Header: http.Header{"Content-Type": {"text/secret"}, "X-Tenant": {"the secret tenant", "tw\xff"}, "Empty": {}},
	}, strings.NewReader(body))
	require.NoError(t, err)
	require.Equal(t, int64(size), receipt.Size)
	return receipt, body
}

func TestWhatIsStoredIsEncrypted(t *testing.T) {
	place := memory.NewPlace()
	store := place.Open()
	in := spool.New(store, spool.Hooks{})
	defer func() { require.NoError(t, in.Close(context.Background())) }()
	storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{
			Encrypt: keys(t, "b", "a"),
			Deliver: func(context.Context, *spool.Message, spool.Body) spool.Result {
				return spool.Result{Err: errConnect}
			},
		},
	)
	for _, size := range []int{0, 1, 16, 65535, 65536, 65537, 3 << 16, 1 << 20} {
		receipt, body := secretCallback(t, in, size)

		stored, err := store.Get(t.Context(), receipt.ID)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprint(stored), "secret")
		b, err := store.Body(t.Context(), receipt.ID)
		require.NoError(t, err)
		raw, err := io.ReadAll(b)
		require.NoError(t, err)
		require.NotContains(t, string(raw), "secret")

		got, err := in.Get(t.Context(), receipt.ID)
		require.NoError(t, err)
		require.Equal(t, int64(size), got.Size)
		require.Equal(t, "text/secret", got.Header.Get("Content-Type"))
		require.Equal(t, []string{"the secret tenant", "tw\xff"}, got.Header["X-Tenant"])
		require.Equal(t, "/hook?a=b", got.URI)
		opened, err := in.Body(t.Context(), receipt.ID)
		require.NoError(t, err)
		require.Equal(t, int64(size), opened.Size())
		for range 2 {
			_, err = opened.Seek(0, io.SeekStart)
			require.NoError(t, err)
			text, err := io.ReadAll(opened)
			require.NoError(t, err)
			require.True(t, body == string(text), "%d bytes", size)
		}
		require.NoError(t, opened.Close())
	}
	for _, m := range list(t, in, spool.Filter{}) {
		require.Equal(t, "text/secret", m.Header.Get("Content-Type"))
	}
}

func TestKeysRotateByPrepending(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		var got []string
		fail := true
		deliver := func(_ context.Context, msg *spool.Message, body spool.Body) spool.Result {
			if fail {
				return spool.Result{Err: errConnect}
			}
			b, err := io.ReadAll(body)
			require.NoError(t, err)
			got = append(got, msg.Header.Get("X-Tenant")+string(b[:3]))
			return spool.Result{Status: 200}
		}
		config := func(k *seal.Keys) spool.RouteConfig {
			return spool.RouteConfig{Deliver: deliver, Encrypt: k, RetryDelays: []time.Duration{time.Second}}
		}
		storetest.SetRoute(in, "r", config(nil))
		secretCallback(t, in, 100) // before anything was encrypted
		storetest.SetRoute(in, "r", config(keys(t, "a")))
		secretCallback(t, in, 100)
		storetest.SetRoute(in, "r", config(keys(t, "b", "a")))
		lost, _ := secretCallback(t, in, 100)
		wait(time.Second)
		fail = false
		storetest.SetRoute(in, "r", config(keys(t, "c", "a"))) // b is forgotten
		secretCallback(t, in, 100)
		wait(time.Hour)
		require.Equal(
			t,
			[]string{"the secret tenantthe", "the secret tenantthe", "the secret tenantthe"},
			got,
		)

		dead := list(t, in, spool.Filter{})
		require.Len(t, dead, 1)
		require.Equal(t, lost.ID, dead[0].ID)
		require.Equal(t, spool.Dead, dead[0].State)
		require.Contains(t, dead[0].LastError, "undecryptable: its key (id ")
		require.Nil(t, dead[0].Header)
		_, err := in.Body(t.Context(), lost.ID)
		require.ErrorIs(t, err, spool.ErrUndecryptable)

		storetest.SetRoute(in, "r", config(keys(t, "c", "b", "a")))
		require.NoError(t, in.Replay(t.Context(), lost.ID))
		wait(time.Second)
		require.Len(t, got, 4)
	})
}

func TestDuplicatesAreKnownWhileTheLastKeyStays(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(taking)
		for i, k := range []*seal.Keys{keys(t, "a"), keys(t, "b", "a"), keys(t, "c", "b", "a"), keys(t, "c")} {
			storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Encrypt: k})
			receipt, err := in.Accept(
				t.Context(),
				spool.Envelope{Route: "r"},
				strings.NewReader(result("1", "x")),
			)
			require.NoError(t, err)
			require.Equal(t, i == 1 || i == 2, receipt.Duplicate)
			require.Equal(t, int64(len(result("1", "x"))), receipt.Size)
		}
	})
}

// tampered is a store in which somebody has changed something.
type tampered struct {
	spool.Store
	message func(*spool.Message)
	body    func([]byte) []byte
}

func (s *tampered) Get(ctx context.Context, id spool.ID) (*spool.Message, error) {
	m, err := s.Store.Get(ctx, id)
	if err == nil && s.message != nil {
		s.message(m)
	}
	return m, err
}

type bytesBody struct{ *bytes.Reader }

func (bytesBody) Close() error { return nil }

func (s *tampered) Body(ctx context.Context, id spool.ID) (spool.Body, error) {
	b, err := s.Store.Body(ctx, id)
	if err != nil || s.body == nil {
		return b, err
	}
	raw, err := io.ReadAll(b)
	return bytesBody{bytes.NewReader(s.body(raw))}, err
}

func TestWhatWasTamperedWithIsNotTaken(t *testing.T) {
	store := &tampered{Store: memory.NewPlace().Open()}
	in := spool.New(store, spool.Hooks{})
	defer func() { require.NoError(t, in.Close(context.Background())) }()
	storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{
			Encrypt: keys(t, "a"),
			Deliver: func(context.Context, *spool.Message, spool.Body) spool.Result {
				return spool.Result{Err: errConnect}
			},
		},
	)
	receipt, _ := secretCallback(t, in, 200_000)
	other, _ := secretCallback(t, in, 200_000)
	b, err := store.Body(t.Context(), other.ID)
	require.NoError(t, err)
	otherBody, err := io.ReadAll(b)
	require.NoError(t, err)

	read := func() error {
		body, err := in.Body(t.Context(), receipt.ID)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(io.Discard, body)
		return err
	}
	require.NoError(t, read())
	for name, change := range map[string]func(*spool.Message){
		"the URI":    func(m *spool.Message) { m.URI = "/admin" },
		"the method": func(m *spool.Message) { m.Method = "PUT" },
		"the header": func(m *spool.Message) { m.Header = flip(m.Header, -1) },
		"its key":    func(m *spool.Message) { m.Header = flip(m.Header, 0) },
		"its head":   func(m *spool.Message) { m.Header = flip(m.Header, 40) },
		"its length": func(m *spool.Message) { m.Header = http.Header{":sealed": {"short"}} },
	} {
		store.message = change
		require.ErrorIs(t, read(), spool.ErrUndecryptable, name)
	}
	store.message = nil
	for name, change := range map[string]func([]byte) []byte{
		"the body of another message": func([]byte) []byte { return otherBody },
		"a bit at the beginning":      func(b []byte) []byte { b[3] ^= 1; return b },
		"a bit in the middle":         func(b []byte) []byte { b[100_000] ^= 1; return b },
		"a bit at the end":            func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut off":                     func(b []byte) []byte { return b[:len(b)-65536] },
		"empty":                       func([]byte) []byte { return nil },
		"longer":                      func(b []byte) []byte { return append(b, 1) },
	} {
		store.body = change
		err := read()
		require.Error(t, err, name)
		require.NotErrorIs(t, err, spool.ErrNotFound)
	}
}

func flip(h http.Header, at int) http.Header {
	b := []byte(h[":sealed"][0])
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	return http.Header{":sealed": {string(b)}}
}

func FuzzUnseal(f *testing.F) {
	k := keys(f, "a")
	place := memory.NewPlace()
	store := place.Open()
	in := spool.New(store, spool.Hooks{})
	storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{
			Encrypt: k,
			Deliver: func(context.Context, *spool.Message, spool.Body) spool.Result {
				return spool.Result{Err: errConnect}
			},
		},
	)
	receipt, _ := secretCallback(f, in, 1000)
	stored, err := store.Get(context.Background(), receipt.ID)
	require.NoError(f, err)
	require.NoError(f, in.Close(context.Background()))
	f.Add(stored.Header[":sealed"][0], stored.Size)
	f.Add("", int64(0))
	f.Fuzz(func(t *testing.T, sealed string, size int64) {
		m := &spool.Message{
			Method: "POST", URI: "/hook?a=b", Size: size, Header: http.Header{":sealed": {sealed}},
		}
		err := spool.Unseal(k, m)
		if err == nil {
			require.Equal(t, "text/secret", m.Header.Get("Content-Type"))
		}
		require.GreaterOrEqual(t, m.Size, int64(0))
	})
}
