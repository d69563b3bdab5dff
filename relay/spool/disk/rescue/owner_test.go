//go:build unix

package rescue

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

func TestWhatIsRecoveredBelongsToTheOwnerOfTheOldInbox(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only the superuser can give files away")
	}
	dir := filepath.Join(disktest.TempDir(t), "inbox")
	inboxWithEverything(t, dir, false)
	require.NoError(t, os.Chown(filepath.Join(dir, index.FileName), 12345, 12345))
	require.NoError(t, os.Chown(dir, 12345, 12345))
	r, err := Recover(context.Background(), dir, dir+".recovered")
	require.NoError(t, err, "an administrator may")
	info, err := os.Stat(filepath.Join(r.Into, index.FileName))
	require.NoError(t, err)
	require.Equal(t, uint32(12345), info.Sys().(*syscall.Stat_t).Uid)
}
