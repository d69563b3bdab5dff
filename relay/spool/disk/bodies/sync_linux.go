package bodies

import (
	"errors"
	"os"
	"syscall"
)

// syncData makes a file's data and size durable. fdatasync does, and leaves out
// the times, which would cost a write of their own.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
