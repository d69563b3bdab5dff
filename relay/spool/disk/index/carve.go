// Records in pages that nothing points to.

package index

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

const (
	maxRecord    = 1 << 20 // a record that is longer is not looked for outside of the tree
	maxRouteName = 1 << 10
)

// carve looks for records in what the tree does not lead to, at every byte: a record is known by
// its checksum, and its key stands before it.
func (s *Salvage) carve() {
	for from, to := range s.unseen() {
		_ = bodies.EachWindow(
			s.file,
			from,
			to,
			idKeySize+maxRecord,
			func(b []byte, base int64, enough int) (int, error) {
				at := 0
				for at < enough {
					n := recordBehindKey(b[at:])
					if n == 0 {
						at++
						continue
					}
					s.orphan(b[at:at+idKeySize], b[at+idKeySize:at+idKeySize+n], base+int64(at)+idKeySize)
					at += idKeySize + n
				}
				return at, nil
			},
		)
	}
}

// unseen yields the parts of the file that the tree does not lead to.
func (s *Salvage) unseen() func(yield func(from, to int64) bool) {
	return func(yield func(int64, int64) bool) {
		pages := (s.size + s.pageSize - 1) / s.pageSize
		begin := int64(-1)
		for page := range pages + 1 {
			taken := page == pages || uint64(page) < uint64(len(s.seen))*64 && s.seen.has(uint64(page))
			switch {
			case !taken && begin < 0:
				begin = page
			case taken && begin >= 0:
				if !yield(begin*s.pageSize, min(page*s.pageSize, s.size)) {
					return
				}
				begin = -1
			}
		}
	}
}

// orphan takes a record that the tree does not lead to, if it may be one that was lost.
func (s *Salvage) orphan(key, record []byte, at int64) {
	m := Found{
		ID: KeyID(key), Route: Uint32(key), at: at, size: uint32(len(record)),
		state: Record(record).state(), parked: Record(record).nextAttempt() != 0, Orphan: true,
	}
	if s.MayBeLostOf(m.Route, m.ID) {
		s.add(m)
	}
}

// state is what the record alone says of the state of its message.
func (b Record) state() spool.State {
	switch {
	case b.EndedAt().IsZero():
		return spool.Pending
	case b.delivered():
		return spool.Delivered
	}
	return spool.Dead
}

// recordBehindKey returns the length of the record at the beginning of b, behind the key of a
// message. It is 0 if there is none.
func recordBehindKey(b []byte) int {
	if len(b) < idKeySize+recordFixed1 || b[idKeySize] == 0 || b[idKeySize] > recordVersion ||
		b[routeKeySize+6]>>4 != 7 || b[routeKeySize+8]>>6 != 2 { // an id is a UUID of version 7
		return 0
	}
	b = b[idKeySize:]
	texts := recordTexts(b)
	if texts == 0 {
		return 0
	}
	for _, window := range [...]int{4 << 10, 64 << 10, maxRecord} {
		r := textReader{rest: string(b[texts:min(window, len(b))])}
		whole := len(r.rest)
		if r.message(new(Entry), b[0]); r.bad {
			if window >= len(b) {
				break
			}
			continue
		}
		if n := texts + whole - len(r.rest); Record(b[:n]).Intact() {
			return n
		}
		break
	}
	return 0
}

// searchNames looks for the names of routes in every page, old ones too, as a
// route has one number for good.
func (s *Salvage) searchNames() {
	take := func(p page) {
		for i := range p.count {
			flags, key, value, ok := p.leaf(i)
			number := Uint32(value)
			if ok && flags == 0 && Routes.checkForm(key, value) == nil && number != 0 &&
				len(key) <= maxRouteName && s.names[number] == "" {
				s.names[number] = string(key)
			}
		}
	}
	b := make([]byte, s.pageSize)
	for at := int64(0); at < s.size; at += s.pageSize {
		if n, _ := s.file.ReadAt(b, at); n < len(b) {
			continue
		}
		p := parsePage(b)
		if p.kind != leafPage || !p.hasElements() {
			continue
		}
		take(p)
		for i := range p.count { // a small bucket is within the element of its name
			flags, key, value, ok := p.leaf(i)
			if ok && flags == bucketElement && string(key) == Routes.String() &&
				len(value) >= bucketHeader+pageHeader {
				if p := parsePage(value[bucketHeader:]); p.hasElements() {
					take(p)
				}
			}
		}
	}
}
