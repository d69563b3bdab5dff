// Package disk is the store of one process on one file system, and the module
// deepgram_callback.stores.disk. Its contract is that of [spool.Store]; this page says how it is
// kept.
//
// # Who calls what, and under which lock
//
//	senders             deliverers            operators             the writer: one goroutine
//	   |                    |                     |                            |
//	NewBody, Accept     Lease, Settle, Body   Replay, Drop, Expire     writer.go: run, work
//	accept.go           lease.go, settle.go   deadletters.go, drop.go          |
//	   |                    |                 expire.go, list.go        stage bodies  accept.go
//	   |                mu: queue/                |                     commit        commit.go
//	   |                (what is next)            |                     tidy up       maintain.go
//	   |                    |                     |                     probe         refusing.go
//	   +------- push -------+------- push --------+                            |
//	                        |                                                  |
//	            operations.go, with its own lock  ------- take --------------> |
//	                                                                           |
//	   <------------------ done: the outcome ----------------------------------+
//	                                                                           |
//	    bodies: segments (own lock), large bodies     <--- append, sync -------+
//	    index:  View from any goroutine, under indexMu for reading
//	            Update                                <--- one transaction ----+
//	            replaced under mu and then indexMu    <--- reopen, compact ----+
//
// A change to what is stored is an [operation]: a function that gets a [change], the transaction of
// a group, and says with change.after what is to be done in memory when the transaction is on disk.
// That runs under mu, in the order of the operations. The two locks of a [Store] are mu, for the
// routes, queues and leases, and indexMu, for the index being there; mu is taken first where both
// are. So whoever reads the index, which is under indexMu, has to know what it needs of mu before:
// all but the writer would wait for Lease, which would wait for the index, which waits for those who
// read it when it grows. Lease reads the index under mu, which is the only reading from disk under
// it, beside what a reopened or compacted index needs. No write and no sync happens under mu, but for
// that.
//
// # Where a rule is
//
//	module.go   the Caddy module             open.go    how a store is opened
//	store.go    what a store is made of      counts.go  how much there is
//	lease.go    what is handed out           find.go    messages, by their ids
//	settle.go   how a delivery ends          list.go    messages, by a filter
//	park.go     what waits behind a failure  kept.go    what gives way
//	restore.go  messages of another inbox    copy.go    copying from here and to here
//	change.go   a transaction, and what memory hears of it
//
// Below are packages that know no [Store]. The queue is used under mu; ledger and fingerprints by
// the writer alone, under no lock; the others by anybody.
//
//	queue         the order of messages, in memory
//	ledger        what a transaction does to messages, and what is counted of them
//	selection     which messages are meant, by a filter or because of their age
//	fingerprints  which callbacks came already
//	requests      which messages have a request id, in memory
//	index         everything but the bodies, on disk: all that knows bbolt
//	bodies        files, segments, the seam to the file system
//
// Beside it is rescue, which reads a damaged inbox and fills a new one.
//
// # What is on disk
//
//	inbox.lock            locked for as long as the inbox is open
//	inbox.db              the index, a bbolt database: everything but the bodies
//	segments/….segment    bodies up to 64 KiB, many in each file, only ever appended to
//	bodies/….body         larger bodies, one in each file, streamed there as they arrive
//	ballast               2 MiB to be given up when the disk is full
//
// In the index (package index) a pending message is either fresh, if it
// was never tried, or parked, if an attempt has failed or it waits behind one
// of which that is so. The fresh ones are a plain list in order of acceptance:
// accepting appends a record there, and a fingerprint to another such list,
// and touches nothing else but a few totals. Only what failed gets into the
// indexes by order key and by time. So accepting costs the same with a million
// pending as with none.
//
// # What is synced when
//
// One goroutine, the writer (writer.go), makes all changes, in groups. For each
// group it appends the small bodies to the active segment and syncs it (large
// ones were synced by whoever brought them, file and directory); then it
// commits one bbolt transaction with everything that points to them, in which
// bbolt syncs the changed pages and then the root. Only then are the senders
// answered. The file of a segment or a body that is no longer needed is removed
// after the commit that says so. At every moment, therefore, what the index
// points to is on disk, and what is not pointed to is rubbish that the next
// open sweeps away.
//
// When there are many senders, the writer waits up to a millisecond for most of
// them to be in a group, since a group costs much the same however large it is.
// What is settled is not synced by itself: it goes along with the next group,
// or 20 ms later. After a crash, what was delivered in that time is delivered
// again.
//
// The list of free pages is not part of a commit; it is written when the inbox
// is closed, and found by looking at all pages when it was not.
//
// # Order
//
// Messages that have to be delivered in the order in which they came have the same order key
// (relay/spool/identity). The queue of a route (package queue) reads the fresh list from
// its front, and remembers between the front and its cursor what is leased,
// ready or held back behind another of its key, within fixed bounds; what does
// not fit is parked. Of every key, the parked ones come before the fresh ones:
// that one rule is what the order stands on, also over a restart, when the
// queue begins at the front again.
//
// Messages from another store (copy.go) are parked, with all fresh ones of their route, as the parked
// of a key are in the order of their ids whenever they came. The ids of what was imported are kept
// for 30 days in a bucket of their own.
//
// # Duplicates
//
// The writer looks up each fingerprint in a table in memory (package fingerprints), 8
// bytes for each, and proves a hit with the whole fingerprint in the index. The
// same message twice in one group is answered with the outcome of the first. A
// fingerprint is in the same transaction as its message, so neither is there
// without the other.
//
// # Leases
//
// A lease is in memory only: the lock file sees to it that there is one
// process, and when that ends, its leases do. What is settled takes effect in
// memory at once, so the next of its key can go while the disk is still to hear
// of it; it is written in the same order, so the state after a crash is one
// that was there before.
//
// # When the disk fails
//
// After a failed write or sync of a segment or body file it is not written to again. After a
// failed commit the index is closed, its two roots are written once more and synced through a
// fresh descriptor (see RewriteRoots in index/guard.go for why that is enough), and it is opened
// and read anew; what was settled but not written stays in memory and is written then. Meanwhile,
// and until a probe has written and synced a new file and a transaction, messages are refused with
// a [spool.RefusedError]. On a full disk the ballast makes room for recording deliveries, which in
// turn makes room for everything else.
//
// # When the disk lies
//
// No byte on disk is believed. Before bbolt opens the index, all pages of it are looked at by
// bounded reads (index/check.go): bbolt has the file as memory and panics, in goroutines of its
// own too, where a page is not as it should be. What the index says twice is compared on the way,
// and what can be counted is counted. After that, whatever panics or faults in bbolt is caught on
// the goroutine that called it (index/guard.go), a commit that fails is broken off before bbolt
// looks for its free pages (there too), and the index is broken: messages are refused until all of
// it could be looked at again. Records and bodies have checksums of their own; a message of which
// one is wrong becomes a dead letter. Package rescue saves what is whole of an inbox that cannot
// be opened.
//
// The directory is held open, nothing in it is opened over a symbolic link, and what belongs to
// another user, or is open to all, is refused (bodies/files.go).
//
// Between groups the writer tidies up (maintain.go): segments of which little is
// needed any more are cleared, and an index that is mostly free pages is
// copied.
package disk
