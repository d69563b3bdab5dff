// How a file is searched that is larger than memory.

package bodies

import "io"

// EachWindow reads a part of a file piece by piece. Pieces overlap by so much that whatever is
// not longer begins in the first enough bytes of one and is there as a whole. fn returns how far
// it came.
func EachWindow(
	f io.ReaderAt,
	from, to int64,
	longest int,
	fn func(b []byte, at int64, enough int) (int, error),
) error {
	buffer := make([]byte, 1<<20+longest)
	for from < to {
		b := buffer[:min(int64(len(buffer)), to-from)]
		n, err := f.ReadAt(b, from)
		if n == 0 && err != nil {
			from += 1 << 12 // cannot be read: leave out as little as there may be
			continue
		}
		b = b[:n]
		enough := len(b)
		if from+int64(n) < to && err == nil {
			enough -= longest
		}
		came, err := fn(b, from, enough)
		if err != nil {
			return err
		}
		from += int64(max(came, min(enough, len(b)), 1))
	}
	return nil
}
