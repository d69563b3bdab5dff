package auth

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// callWithBody has an address send a body, and closes what was verified of it.
func callWithBody(p *Policy, address, body string) error {
	r := request(http.MethodPost, "/")
	r.RemoteAddr = address
	r.Body = io.NopCloser(strings.NewReader(body))
	if err := p.VerifyBody(httptest.NewRecorder(), r); err != nil {
		return err
	}
	return r.Body.Close()
}

func TestOneAddressLeavesRoomForTheOthers(t *testing.T) {
	r := newRoom(1 << 20)
	address := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)
	}
	// each of them takes what it can get, over as many bodies as it likes
	held := func(i int) (sum int64) {
		for {
			s := &share{of: r, address: address(i)}
			if s.take(1<<10) != nil {
				return sum
			}
			sum += s.held
		}
	}
	require.InDelta(t, r.free/shareOf, held(0), 1<<10)
	for i := 1; i < 16; i++ {
		held(i)
	}
	require.Greater(t, held(16), int64(4<<10), "something is left for one who comes late")
}

func TestRoomIsGivenBackOnce(t *testing.T) {
	r := newRoom(200)
	one, other := &share{of: r}, &share{of: r}
	require.NoError(t, one.take(10))
	require.NoError(t, one.take(10))
	require.NoError(t, other.take(10))
	require.ErrorIs(t, other.take(20), errNoShare)
	require.ErrorIs(t, other.take(180), errNoRoom)
	one.giveBack()
	one.giveBack()
	require.EqualValues(t, 190, r.free)
	other.giveBack()
	require.EqualValues(t, 200, r.free)
	require.Empty(t, r.held)
}

// deadlineWriter has the deadlines of a connection whose body comes over a pipe.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	mu    sync.Mutex
	body  *io.PipeReader
	timer *time.Timer
}

func (w *deadlineWriter) SetReadDeadline(deadline time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if !deadline.IsZero() {
		w.timer = time.AfterFunc(time.Until(deadline), func() {
			_ = w.body.CloseWithError(os.ErrDeadlineExceeded) // a write has to end as well
		})
	}
	return nil
}

// drip sends pieces of a body with pauses between them, and returns how long it
// took to be decided about, and how.
func drip(p *Policy, pieces []string, pause time.Duration) (time.Duration, error) {
	reader, writer := io.Pipe()
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder(), body: reader}
	r := request(http.MethodPost, "/")
	r.Body = timedReader{reader}
	var sender sync.WaitGroup
	sender.Go(func() {
		for _, piece := range pieces {
			if _, err := io.WriteString(writer, piece); err != nil {
				return
			}
			time.Sleep(pause)
		}
		_ = writer.Close()
	})
	start := time.Now()
	err := p.VerifyBody(w, r)
	took := time.Since(start)
	_ = r.Body.Close()
	sender.Wait()
	return took, err
}

// timedReader gives the reader's end of a pipe the error that a connection has
// whose deadline has passed.
type timedReader struct{ *io.PipeReader }

func (r timedReader) Read(p []byte) (int, error) {
	n, err := r.PipeReader.Read(p)
	if err == io.ErrClosedPipe {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

func TestABodyThatIsNotAdmittedYetHasToComeAtALeastRate(t *testing.T) {
	right := `"metadata":{"extra":{"callback_secret":"old-secret-of-2025"}}}`
	slow := func(bytes, pieces int) []string {
		all := []string{`{"a":"`}
		for range pieces {
			all = append(all, strings.Repeat("x", bytes))
		}
		return append(all, `",`+right)
	}
	for name, test := range map[string]struct {
		pieces  []string
		pause   time.Duration
		longest time.Duration // or 0, where it is admitted
	}{
		"one byte in 30 s":     {slow(1, 1000), 30 * time.Second, stretch},
		"one byte in a second": {slow(1, 1000), time.Second, stretch},
		"nothing at all":       {[]string{""}, time.Hour, stretch},
		"4 KiB/s":              {slow(4<<10, 10_000), time.Second, stretch},
		"8 MiB at once, then a byte": {append(slow(8<<20, 1)[:2], slow(1, 100)...),
			time.Minute, stretch},
		"32 KiB/s for two minutes":        {slow(32<<10, 120), time.Second, 0},
		"pauses of 15 s, 256 KiB between": {slow(256<<10, 20), 15 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took, err := drip(bodyPolicy(t), test.pieces, test.pause)
				if test.longest == 0 {
					require.NoError(t, err)
					return
				}
				refused := refusal(t, err)
				require.Equal(t, http.StatusRequestTimeout, refused.Status)
				require.Equal(t, ReasonBodyTimeout, refused.Reason)
				require.LessOrEqual(t, took, test.longest)
				require.Zero(t, bodyRoom.used())
			})
		})
	}
}

// Once it is admitted, a sender may take its time.
func TestWhatFollowsTheSecretMayComeSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder(), body: reader}
		r := request(http.MethodPost, "/")
		r.Body = timedReader{reader}
		go func() {
			_, _ = io.WriteString(writer, `{`+rightMetadata)
			time.Sleep(time.Hour)
			_, _ = io.WriteString(writer, `}`)
			_ = writer.Close()
		}()
		require.NoError(t, bodyPolicy(t).VerifyBody(w, r))
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, `{`+rightMetadata+`}`, string(body))
	})
}
