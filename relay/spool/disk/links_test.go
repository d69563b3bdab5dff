//go:build unix

package disk

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

// Nothing in the inbox's directory leads out of it, and nobody else can have put it there.

func TestNoSymbolicLinkIsFollowed(t *testing.T) {
	for _, name := range []string{
		index.FileName, index.DraftName, bodies.LockName, ballastName, probeName,
		bodies.SegmentDir, bodies.LargeDir,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(disktest.TempDir(t), "inbox")
			inboxWithEverything(t, dir, false)
			target := filepath.Join(filepath.Dir(dir), "precious")
			path := filepath.Join(dir, name)
			if name == bodies.SegmentDir || name == bodies.LargeDir {
				require.NoError(t, os.Rename(path, target))
				require.NoError(
					t,
					os.WriteFile(
						filepath.Join(target, bodies.SegmentName(0xffff)),
						[]byte("precious"),
						bodies.FilePerm,
					),
				)
			} else {
				require.NoError(t, os.RemoveAll(path))
				require.NoError(t, os.WriteFile(target, []byte("precious"), bodies.FilePerm))
			}
			require.NoError(t, os.Symlink(target, path))

			d, err := Open(dir, Options{})
			if name == index.DraftName || name == probeName { // which are removed
				require.NoError(t, err)
				_ = d.probe()
				require.NoError(t, d.Close(context.Background()))
			} else {
				require.ErrorContains(t, err, path)
			}
			if info, err := os.Stat(target); err == nil && info.IsDir() {
				target = filepath.Join(target, bodies.SegmentName(0xffff))
			}
			content, err := os.ReadFile(target)
			require.NoError(t, err)
			require.Equal(t, "precious", string(content))
		})
	}
}

// A link that leads to another file of the inbox is none of its own either.
func TestNoSymbolicLinkInPlaceOfABodyIsFollowed(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	inboxWithEverything(t, dir, false)
	for _, sub := range []string{bodies.SegmentDir, bodies.LargeDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		require.NoError(t, err)
		for _, entry := range entries {
			path := filepath.Join(dir, sub, entry.Name())
			require.NoError(t, os.Rename(path, filepath.Join(dir, entry.Name())))
			require.NoError(t, os.Symlink(filepath.Join("..", entry.Name()), path))
		}
	}
	d := openTestDisk(t, dir, Options{})
	list, err := d.List(context.Background(), spool.Filter{Limit: 1000})
	require.NoError(t, err)
	for _, m := range list {
		_, err := d.Body(context.Background(), m.ID)
		require.ErrorIs(t, err, bodies.ErrNotRegular)
	}
}

func TestWhatIsNotAFileIsNotWaitedFor(t *testing.T) {
	for _, name := range []string{index.FileName, bodies.LockName, ballastName} {
		dir := filepath.Join(disktest.TempDir(t), "inbox")
		require.NoError(t, os.Mkdir(dir, bodies.DirPerm))
		require.NoError(t, syscall.Mkfifo(filepath.Join(dir, name), 0o600))
		failed := make(chan error)
		go func() {
			_, err := Open(dir, Options{})
			failed <- err
		}()
		select {
		case err := <-failed:
			require.ErrorContains(t, err, filepath.Join(dir, name))
		case <-time.After(10 * time.Second):
			t.Fatal(name, "is waited for")
		}
	}
}

func TestADirectoryThatAnybodyCanChangeIsRefused(t *testing.T) {
	for _, name := range []string{
		"", bodies.SegmentDir, bodies.LargeDir, index.FileName, bodies.LockName, ballastName,
	} {
		dir := filepath.Join(disktest.TempDir(t), "inbox")
		inboxWithEverything(t, dir, false)
		path := filepath.Join(dir, name)
		require.NoError(t, os.Chmod(path, 0o777))
		_, err := Open(dir, Options{})
		require.ErrorContains(t, err, path+": not safe to use: every user can write to it", name)
	}
}

func TestWhatBelongsToAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only the superuser can give files away")
	}
	for _, name := range []string{
		"", bodies.SegmentDir, bodies.LargeDir, index.FileName, bodies.LockName, ballastName,
	} {
		dir := filepath.Join(disktest.TempDir(t), "inbox")
		inboxWithEverything(t, dir, false)
		path := filepath.Join(dir, name)
		require.NoError(t, os.Chown(path, 12345, 12345))
		_, err := Open(dir, Options{})
		require.ErrorContains(
			t,
			err,
			path+": not safe to use: it belongs to user 12345, and this process runs as user 0",
			name,
		)
	}
}

func TestADirectoryThatAGroupSharesStaysOpenToIt(t *testing.T) {
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chmod(dir, 0o770|fs.ModeSetgid))
	openTestDisk(t, dir, Options{})
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o770), info.Mode().Perm())
}
