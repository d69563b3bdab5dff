package app

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func TestRefusalsAreCountedAndRemembered(t *testing.T) {
	var l RefusalList
	require.Empty(t, l.List())
	counted := func() float64 {
		return testutil.ToFloat64(requestsTotal.WithLabelValues("batch", ReasonPort))
	}
	before := counted()
	var want []Refusal
	for i := range remembered + 10 {
		r := Refusal{
			At: time.Unix(int64(i), 0), Reason: ReasonPort, Status: 403, Kind: "batch",
			Method: "POST", Host: "gateway:8443", Path: "/callbacks/é", ClientIP: "2001:db8::1",
			Size: int64(i),
		}
		require.Equal(t, r, l.Note(r))
		want = append([]Refusal{r}, want...)
	}
	require.Equal(t, want[:remembered], l.List(), "the newest first")
	require.Equal(t, float64(len(want)), counted()-before)
}

// A path is a piece of a request's whole head, which must not be kept either.
func TestRefusalsTakeLittleMemoryWhateverStrangersSend(t *testing.T) {
	for name, piece := range map[string]string{
		"plain": "x", "no UTF-8": "\x80", "steering": "\U000e0001", "wide": "é",
	} {
		t.Run(name, func(t *testing.T) {
			var l RefusalList
			before := heap()
			for range 10_000 {
				head := strings.Repeat(piece, 8<<10)
				l.Note(Refusal{
					Reason: ReasonPort, Kind: "batch", Method: head, Host: head, Path: head, ClientIP: head,
				})
			}
			require.Less(t, heap()-before, int64(1<<20))
			head := "POST /short HTTP/1.1" + strings.Repeat(piece, 1<<20)
			for range 2 * remembered {
				l.Note(Refusal{Reason: ReasonPort, Kind: "batch", Method: head[:4], Path: head[5:11]})
			}
			head = ""
			require.Less(t, heap()-before, int64(256<<10))
			require.Equal(t, "/short", l.List()[0].Path)
			runtime.KeepAlive(&l)
		})
	}
}

// heap is what is in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestRefusalsHoldNoCredential(t *testing.T) {
	for path, want := range map[string]string{
		"/callbacks":                     "/callbacks",
		"/50%":                           "/50%",
		"/%25":                           "/%25",
		"/%3":                            "/%3",
		"/a%3Bb":                         "/a%3Bb",
		"":                               "",
		"/callbacks?token=secret":        "/callbacks",
		"/callbacks%3Ftoken=secret":      "/callbacks",
		"/callbacks%3ftoken=secret":      "/callbacks",
		"/a%25/callbacks%253Ft%3Dsecret": "/a%25/callbacks",
		"/callbacks%25253ftoken=secret":  "/callbacks",
	} {
		noted := new(RefusalList).Note(Refusal{Reason: ReasonPort, Kind: "batch", Path: path})
		require.Equal(t, want, noted.Path)
	}
	for host, want := range map[string]string{
		"": "", "host:443": "host:443", "user:secret@host:443": "host:443", "@host": "host",
		"user:secret@more@host": "host", "secret@": "",
	} {
		noted := new(RefusalList).Note(Refusal{Reason: ReasonPort, Kind: "batch", Host: host})
		require.Equal(t, want, noted.Host)
	}
}

func TestRefusalsAreNotedAndListedAtOnce(t *testing.T) {
	var l RefusalList
	var working sync.WaitGroup
	for range 8 {
		working.Go(func() {
			for range 500 {
				l.Note(Refusal{Reason: ReasonPort, Kind: "batch", Path: "/"})
			}
		})
		working.Go(func() {
			for range 50 {
				require.LessOrEqual(t, len(l.List()), remembered)
			}
		})
	}
	working.Wait()
	require.Len(t, l.List(), remembered)
}

func TestEveryRemedySaysWhatHappenedAndWhatToDo(t *testing.T) {
	require.Empty(t, Remedy("none"))
	require.Len(t, Reasons(), len(remedies))
	for _, reason := range Reasons() {
		happened, remedy, found := strings.Cut(Remedy(reason), ": ")
		require.True(t, found, reason)
		require.NotEmpty(t, happened)
		require.NotEmpty(t, remedy)
		require.NotRegexp(t, `[.\s]$|\s\s`, Remedy(reason))
	}
}

// Whatever comes is bounded, printable, and without what is behind a question mark.
func FuzzRefusal(f *testing.F) {
	f.Add("POST", "host", "/callbacks%3Ftoken=x", "192.0.2.1")
	f.Add("\x1b[2J", "user:secret@\u202e", "/\xff?%25", strings.Repeat("\U000e0001", 100))
	f.Fuzz(func(t *testing.T, method, host, path, client string) {
		var l RefusalList
		l.Note(Refusal{
			Reason: ReasonPort, Kind: "batch", Method: method, Host: host, Path: path, ClientIP: client,
		})
		r := l.List()[0]
		for _, kept := range []struct {
			text  string
			limit int
		}{{r.Method, maxMethod}, {r.Host, maxHost}, {r.Path, maxPath}, {r.ClientIP, maxClientIP}} {
			require.LessOrEqual(t, len(kept.text), 4*kept.limit+len("…"))
			for _, c := range kept.text {
				require.True(t, unicode.IsPrint(c), "%q", kept.text)
			}
		}
		require.NotContains(t, r.Path, "?")
		require.NotContains(t, r.Host, "@")
	})
}
