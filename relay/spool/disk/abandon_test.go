package disk

// abandon ends an engine as a crash would: nothing is written any more, and the lock is free.
func (d *Store) abandon() {
	d.ops.mu.Lock()
	d.ops.ops, d.ops.closed = nil, true
	d.ops.signal()
	d.ops.mu.Unlock()
	<-d.done
	d.indexMu.Lock()
	defer d.indexMu.Unlock()
	_ = d.index.Close(false)
	d.index = nil
	d.segments.Close()
	_ = d.lock.Close()
}
