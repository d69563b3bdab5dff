package disk

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// gathered returns how long gather takes while do happens.
func gathered(t *testing.T, before, quorum int, do func(q *operations)) time.Duration {
	t.Helper()
	q := newOperations()
	for range before {
		q.push(&operation{accept: &acceptance{}}, true)
	}
	if do != nil {
		go do(q)
	}
	began := time.Now()
	q.gather(quorum, time.Second)
	return time.Since(began)
}

func TestAGroupCommitWaitsForCompanyButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrive := func(n int) func(*operations) {
			return func(q *operations) {
				for range n {
					time.Sleep(100 * time.Millisecond)
					q.push(&operation{accept: &acceptance{}}, true)
					q.push(&operation{durable: true}, false)
				}
			}
		}
		require.Zero(t, gathered(t, 1, 0, nil), "a single sender")
		require.Zero(t, gathered(t, 0, 5, nil), "nobody who could be kept waiting")
		require.Zero(t, gathered(t, 5, 5, nil), "all are there")
		require.Equal(t, 400*time.Millisecond, gathered(t, 1, 5, arrive(5)), "the last one comes")
		require.Equal(t, time.Second, gathered(t, 1, 5, arrive(3)), "some stay away")
		require.Equal(t, 100*time.Millisecond, gathered(t, 1, 5, func(q *operations) {
			time.Sleep(100 * time.Millisecond)
			q.close()
		}), "the store is closed")
		synctest.Wait()
	})
}

func TestOnlyManySendersAreWaitedFor(t *testing.T) {
	w := &writer{store: &Store{ops: newOperations()}}
	group := func(n int) (ops []*operation) {
		for range n {
			ops = append(ops, &operation{accept: &acceptance{}}, &operation{durable: true})
		}
		return ops
	}
	w.countCompany(group(minCompany - 1))
	require.Zero(t, w.company)
	w.countCompany(group(32))
	require.Equal(t, 28, w.company)
	w.store.ops.push(group(1)[0], true)
	w.countCompany(group(minCompany - 1))
	require.Equal(t, 7, w.company)
	w.countCompany(nil)
	require.Zero(t, w.company)
}
