package requests

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

func TestRequestsAreFoundWhateverCameAndWent(t *testing.T) {
	var r Table
	var ids spool.IDSource
	rng := rand.New(rand.NewPCG(1, 2))
	want := make(map[string][]uint64)
	var all []spool.ID
	requestOf := make(map[spool.ID]string)
	late := []spool.ID{ids.Next(time.Now()), ids.Next(time.Now())}
	for i := range 20_000 {
		id := ids.Next(time.Now())
		if i%5000 == 4999 && len(late) > 0 {
			id, late = late[0], late[1:]
		}
		request := fmt.Sprint(rng.IntN(200))
		r.Add(id, request)
		all, requestOf[id] = append(all, id), request
		want[request] = append(want[request], upper(id))
		if i%3 != 0 {
			n := rng.IntN(len(all))
			gone := all[n]
			all[n] = all[len(all)-1]
			all = all[:len(all)-1]
			r.Remove(gone)
			r.Remove(gone)
			of := requestOf[gone]
			want[of] = slices.DeleteFunc(want[of], func(u uint64) bool { return u == upper(gone) })
		}
	}
	r.Add(ids.Next(time.Now()), "")
	check := func() {
		for request, ids := range want {
			slices.Sort(ids)
			for _, u := range ids {
				require.Contains(t, r.Find(request, false), u)
			}
			found := r.Find(request, true)
			slices.Reverse(found)
			require.Equal(t, r.Find(request, false), found)
		}
		require.LessOrEqual(t, len(r.ids), 2*len(all)+1026)
	}
	check()
	var found []index.Request
	for _, id := range all {
		found = append(found, index.Request{ID: id, Hash: index.HashRequest(requestOf[id])})
	}
	r = Table{}
	r.Load(found)
	check()
}

func BenchmarkFindARequestAmongAMillion(b *testing.B) {
	var r Table
	var ids spool.IDSource
	for i := range 1_000_000 {
		r.Add(ids.Next(time.Now()), fmt.Sprint(i))
	}
	for b.Loop() {
		if len(r.Find("500000", false)) == 0 {
			b.Fatal("not found")
		}
	}
}
