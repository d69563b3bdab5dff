// Package index keeps everything about messages but their bodies, in a bbolt database of which no
// byte is believed.
//
//	index.go    open, create and close
//	guard.go    transactions; whatever goes wrong in bbolt ends with an error there
//	tx.go       what a transaction reads and writes
//	place.go    where a message is
//	lists.go    the parked messages and the dead letters, which are in several buckets each
//	bucket.go   the buckets
//	key.go      the keys in them
//	record.go   a message, as it is written
//	totals.go   what is known of a route and of a segment, as it is written
//	check.go    what is looked at before bbolt opens a file; page.go, tree.go, roots.go and
//	            freelist.go are how it is read there, without bbolt
//	salvage.go  what is left in a damaged file, for a rescue; carve.go is where nothing leads to it
//	compact.go  a file that is mostly free pages is written anew
//
// Nothing here waits for anything but the disk. [Index.View] may be called from any goroutine,
// [Index.Update] from one at a time. No other package knows bbolt.
package index
