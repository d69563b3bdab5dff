// What a transaction reads and writes: keys and values in buckets.

package index

import (
	"bytes"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Tx is a transaction on the index.
type Tx struct {
	tx      *bolt.Tx
	buckets [Count]*bolt.Bucket
}

// in returns what bbolt has of a bucket: nil for one that an earlier version did not have, and into
// which nothing was put yet.
func (t *Tx) in(b Bucket) *bolt.Bucket {
	if t.buckets[b] == nil {
		t.buckets[b] = t.tx.Bucket([]byte(b.String()))
		t.fillUp(b)
	}
	return t.buckets[b]
}

// fillUp has the pages of a bucket that is written in order keep no room in between.
func (t *Tx) fillUp(b Bucket) {
	if bucket := t.buckets[b]; bucket != nil && (b == Fresh || b == Prints || b == Kept) {
		bucket.FillPercent = 0.95
	}
}

// Put sets a value.
func (t *Tx) Put(b Bucket, key, value []byte) error {
	if t.in(b) == nil {
		made, err := t.tx.CreateBucket([]byte(b.String()))
		if err != nil {
			return err
		}
		t.buckets[b] = made
		t.fillUp(b)
	}
	return t.in(b).Put(key, value)
}

// Delete takes a key out, if it is there.
func (t *Tx) Delete(b Bucket, key []byte) error {
	if t.in(b) == nil {
		return nil
	}
	return t.in(b).Delete(key)
}

// Get returns a value that is valid until the transaction ends.
func (t *Tx) Get(b Bucket, key []byte) []byte {
	if t.in(b) == nil {
		return nil
	}
	return t.in(b).Get(key)
}

// Scan calls fn for the entries whose keys begin with prefix and are greater than
// prefix and after together, in order, until fn returns false. fn must not change the bucket.
func (t *Tx) Scan(b Bucket, prefix, after []byte, fn func(key, value []byte) bool) {
	if t.in(b) == nil {
		return
	}
	cursor := t.in(b).Cursor()
	start := append(append(make([]byte, 0, 64), prefix...), after...)
	key, value := cursor.Seek(start)
	if len(after) > 0 && bytes.Equal(key, start) {
		key, value = cursor.Next()
	}
	for ; key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		if !fn(key, value) {
			return
		}
	}
}

// ScanBack is scan from the end.
func (t *Tx) ScanBack(b Bucket, prefix []byte, fn func(key, value []byte) bool) {
	t.ScanDown(b, prefix, nil, fn)
}

// ScanDown is scan from the end, or from before prefix and before together.
func (t *Tx) ScanDown(b Bucket, prefix, before []byte, fn func(key, value []byte) bool) {
	if t.in(b) == nil {
		return
	}
	cursor := t.in(b).Cursor()
	end := append(append(make([]byte, 0, 64), prefix...), before...)
	if before == nil {
		end = append(end, bytes.Repeat([]byte{0xff}, idKeySize)...) // no key is as long
	}
	first := cursor.Prev
	if beyond, _ := cursor.Seek(end); beyond == nil {
		first = cursor.Last
	}
	for key, value := first(); key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Prev() {
		if !fn(key, value) {
			return
		}
	}
}

// First returns the first id of a route in a bucket whose keys are route and id.
func (t *Tx) First(b Bucket, route uint32) (id spool.ID, ok bool) {
	t.Scan(b, RouteKey(route), nil, func(key, _ []byte) bool {
		id, ok = KeyID(key), true
		return false
	})
	return id, ok
}
