// Package bodies keeps the bodies of messages in files, and has the seam between the engine and the
// file system. It knows of messages no more than an id and the number of a route, as bytes, and
// nothing of what their order is or whether they were delivered: the index says which bodies are
// needed, in [Stats].
//
//	files.go     the seam: everything that the engine writes goes through a FileSystem
//	sync_*.go    what makes bytes durable
//	platform_*   what differs between operating systems: locks, owners, a full disk
//	failure.go   what a failed write or sync means for a sender
//	writer.go    a body on its way in
//	segment.go   bodies up to 64 KiB, many in a file that is only appended to
//	read.go      how they are found there again
//	large.go     larger bodies, one in a file
//	location.go  where a body is
//
// One goroutine, the engine's writer, appends to segments and publishes what the index says of
// them. Anybody may read, at any time. The lock of [Segments] is held over no write and no sync of
// a body, but over the creation of a segment.
package bodies
