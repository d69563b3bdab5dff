package queue

import (
	"encoding/binary"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// queueModel is a queue with a disk that is two sets of ids, and an oracle: of every order key, the
// messages that are not done with, oldest first. Whatever is leased has to be the first of its key,
// which nothing else of the key may be leased beside; and in the end everything must have come.
type queueModel struct {
	t *rapid.T
	q *Queue

	// The disk, as far as it was committed.
	fresh  []spool.ID
	parked map[uint64][]spool.ID
	dead   []spool.ID
	ops    []queueOp // not committed

	keys   map[spool.ID]uint64
	leases map[spool.ID]*Lease
	last   uint64

	pending map[uint64][]spool.ID // the oracle
	flying  map[uint64]*Lease     // leased and not settled
	now     time.Time
}

// queueOp is one change: on disk, and then in the queue.
type queueOp struct{ apply, after func() }

func newQueueModel(t *rapid.T) *queueModel {
	small := func(name string) int { return rapid.IntRange(1, 4).Draw(t, name) }
	limits := Limits{
		Ready: small("ready"), Followers: small("followers") - 1, Chunk: small("chunk"),
		Transit: small("transit"),
	}
	return &queueModel{
		t: t, q: New("r", 1, limits),
		parked: make(map[uint64][]spool.ID), keys: make(map[spool.ID]uint64),
		leases: make(map[spool.ID]*Lease), pending: make(map[uint64][]spool.ID),
		flying: make(map[uint64]*Lease), now: time.Unix(1, 0),
	}
}

func insertID(ids []spool.ID, id spool.ID) []spool.ID {
	i, _ := slices.BinarySearchFunc(ids, id, spool.ID.Compare)
	return slices.Insert(ids, i, id)
}

func removeID(ids []spool.ID, id spool.ID) ([]spool.ID, bool) {
	i := slices.Index(ids, id)
	if i < 0 {
		return ids, false
	}
	return slices.Delete(slices.Clone(ids), i, i+1), true
}

func (m *queueModel) anyParked() bool {
	for _, ids := range m.parked {
		if len(ids) > 0 {
			return true
		}
	}
	return false
}

// take takes a message off the disk, wherever it is.
func (m *queueModel) take(id spool.ID) (wasFresh, was bool) {
	if m.fresh, was = removeID(m.fresh, id); was {
		return true, true
	}
	key := m.keys[id]
	m.parked[key], was = removeID(m.parked[key], id)
	return false, was
}

func (m *queueModel) accept() {
	key := rapid.Uint64Range(1, 4).Draw(m.t, "key")
	var id spool.ID
	m.ops = append(m.ops, queueOp{
		apply: func() {
			m.last++
			binary.BigEndian.PutUint64(id[:], m.last)
			m.keys[id] = key
			m.fresh = append(m.fresh, id)
			m.pending[key] = append(m.pending[key], id)
		},
		after: func() { m.q.Offer(Waiting{ID: id, Key: key, Msg: m.entry(id)}, m.anyParked()) },
	})
}

func (m *queueModel) entry(id spool.ID) *index.Entry {
	return &index.Entry{Message: spool.Message{ID: id, OrderKey: m.keys[id]}}
}

// commit writes the first operations as one transaction.
func (m *queueModel) commit(n int) {
	group := m.ops[:n]
	m.ops = slices.Clone(m.ops[n:])
	for _, op := range group {
		op.apply()
	}
	for _, op := range group {
		op.after()
	}
}

func (m *queueModel) lease(id spool.ID, parked bool) {
	key := m.keys[id]
	if first := m.pending[key]; len(first) == 0 || first[0] != id {
		m.t.Fatalf("%v of key %d leased before %v", id, key, first)
	}
	if m.flying[key] != nil {
		m.t.Fatalf("%v of key %d leased beside %v", id, key, m.flying[key].Msg.ID)
	}
	l := m.q.Lease(m.entry(id), parked)
	m.leases[id], m.flying[key] = l, l
}

func (m *queueModel) leaseParked(key uint64) bool {
	for _, id := range m.parked[key] {
		if m.leases[id] == nil {
			m.lease(id, true)
			return true
		}
	}
	return false
}

// leaseSome does what Lease does, for so many messages.
func (m *queueModel) leaseSome(limit int, newest bool) {
	before := len(m.flying)
	missing := func() bool { return len(m.flying)-before < limit }
	m.q.Resume(func(key uint64) bool { return missing() && m.leaseParked(key) })
	draw := func() {
		m.q.Draw(newest, func(w Waiting) Drawn {
			switch {
			case !missing():
				return DrawnLast
			case !slices.Contains(m.fresh, w.ID):
				return DrawnGone
			case rapid.IntRange(0, 9).Draw(m.t, "avoided") == 0:
				return DrawnPassed
			}
			m.lease(w.ID, false)
			return DrawnLeased
		})
	}
	for range 5 {
		draw()
		if !missing() || m.q.atEnd {
			break
		}
		if !m.q.HasRoom() {
			m.now = m.now.Add(clearPause)
			for _, key := range m.q.Clear(m.now) {
				m.park(key, nil)
			}
			break
		}
		m.read()
	}
	for _, key := range slices.Sorted(maps.Keys(m.parked)) {
		if ids := m.parked[key]; missing() && len(ids) > 0 && m.leases[ids[0]] == nil &&
			!m.q.IsBusy(key) {
			m.lease(ids[0], true)
		}
	}
}

// read does what leasing.load does.
func (m *queueModel) read() {
	overflow := make(map[uint64][]Waiting)
	n := 0
	for _, id := range m.fresh {
		if id.Compare(m.q.cursor) <= 0 {
			continue
		}
		if n == m.q.limits.Chunk || !m.q.HasRoom() {
			break
		}
		n++
		if m.leases[id] != nil {
			m.q.Skip(id)
			continue
		}
		key := m.keys[id]
		isParked := func() bool { return len(m.parked[key]) > 0 }
		if w := (Waiting{ID: id, Key: key}); !m.q.Read(w, overflow[key] == nil, isParked) {
			overflow[key] = append(overflow[key], w)
		}
	}
	m.q.ReadAll(n < m.q.limits.Chunk && m.q.HasRoom())
	for _, key := range slices.Sorted(maps.Keys(overflow)) {
		m.park(key, overflow[key])
	}
}

func (m *queueModel) park(key uint64, rest []Waiting) {
	p := m.q.Park(key, rest)
	void := false
	m.ops = append(m.ops, queueOp{
		apply: func() {
			if void = m.q.IsVoid(p); void {
				return
			}
			for _, id := range p.IDs {
				var was bool
				if m.fresh, was = removeID(m.fresh, id); was {
					m.parked[key] = insertID(m.parked[key], id)
				}
			}
		},
		after: func() {
			if !void {
				m.q.Parked(p)
			}
		},
	})
}

// someLease returns a lease that is not settled.
func (m *queueModel) someLease() *Lease {
	if len(m.flying) == 0 {
		return nil
	}
	return m.flying[rapid.SampledFrom(slices.Sorted(maps.Keys(m.flying))).Draw(m.t, "of")]
}

func (m *queueModel) settle(l *Lease, verdict spool.Verdict) {
	id, key := l.Msg.ID, l.Msg.OrderKey
	delete(m.flying, key)
	if verdict == spool.Return {
		delete(m.leases, id)
		m.q.GiveBack(l)
		return
	}
	if verdict != spool.Retry {
		m.pending[key], _ = removeID(m.pending[key], id)
	}
	m.q.Settle(l, verdict)
	var more bool
	m.ops = append(m.ops, queueOp{
		apply: func() {
			_, was := m.take(id)
			switch {
			case !was:
			case verdict == spool.Retry:
				m.parked[key] = insertID(m.parked[key], id)
			case verdict == spool.Bury:
				m.dead = append(m.dead, id)
			}
			more = len(m.parked[key]) > 0
		},
		after: func() {
			delete(m.leases, id)
			m.q.Recorded(l, more)
		},
	})
}

// drop forgets a message that is not leased.
func (m *queueModel) drop() {
	all := slices.Clone(m.fresh)
	for _, key := range slices.Sorted(maps.Keys(m.parked)) {
		all = append(all, m.parked[key]...)
	}
	all = slices.DeleteFunc(all, func(id spool.ID) bool { return m.leases[id] != nil })
	if len(all) == 0 || len(m.ops) > 0 { // as an operation it is behind all others
		return
	}
	id := rapid.SampledFrom(all).Draw(m.t, "dropped")
	key := m.keys[id]
	wasFresh, _ := m.take(id)
	m.pending[key], _ = removeID(m.pending[key], id)
	if wasFresh {
		m.q.Forget(id, key)
	} else {
		m.q.ForgetParked(key, len(m.parked[key]) > 0)
	}
}

func (m *queueModel) replay() {
	if len(m.dead) == 0 || len(m.ops) > 0 {
		return
	}
	id := m.dead[0]
	key := m.keys[id]
	if m.flying[key] != nil { // which it does not overtake; the oracle knows nothing of that
		return
	}
	m.dead = m.dead[1:]
	m.parked[key] = insertID(m.parked[key], id)
	m.pending[key] = insertID(m.pending[key], id)
	m.q.LetPass(key)
}

// reopen does what is done after the index failed.
func (m *queueModel) reopen() {
	m.q.Reset()
	for _, id := range slices.SortedFunc(maps.Keys(m.leases), spool.ID.Compare) {
		m.q.Keep(m.leases[id], !slices.Contains(m.fresh, id))
	}
}

func (m *queueModel) step() {
	switch rapid.IntRange(0, 15).Draw(m.t, "step") {
	case 0, 1, 2, 3:
		m.accept()
	case 4, 5, 6:
		m.leaseSome(rapid.IntRange(1, 4).Draw(m.t, "max"), rapid.Bool().Draw(m.t, "newest"))
	case 7, 8, 9, 10:
		if l := m.someLease(); l != nil {
			m.settle(l, rapid.SampledFrom([]spool.Verdict{
				spool.Done, spool.Done, spool.Retry, spool.Bury, spool.Return,
			}).Draw(m.t, "verdict"))
		}
	case 11, 12:
		m.commit(rapid.IntRange(0, len(m.ops)).Draw(m.t, "group"))
	case 13:
		m.drop()
	case 14:
		m.replay()
	case 15:
		m.reopen()
	}
}

// drain delivers everything that is left.
func (m *queueModel) drain() {
	for range 10_000 {
		for _, key := range slices.Sorted(maps.Keys(m.flying)) {
			m.settle(m.flying[key], spool.Done)
		}
		m.commit(len(m.ops))
		m.leaseSome(4, false)
		left := len(m.ops) + len(m.flying)
		for _, ids := range m.pending {
			left += len(ids)
		}
		if left == 0 {
			return
		}
	}
	m.t.Fatalf("left behind: %v", m.pending)
}

func TestTheQueueHandsOutEverythingInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newQueueModel(t)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			m.step()
		}
		m.drain()
		if m.q.InFlight() != 0 || m.q.held != 0 || m.q.transit != 0 || len(m.q.ready) != 0 {
			t.Fatalf("something is left in the queue: %+v", m.q)
		}
		for key, k := range m.q.keys {
			if k.busy() || len(k.followers) > 0 {
				t.Fatalf("something is left of key %d: %+v", key, k)
			}
		}
	})
}
