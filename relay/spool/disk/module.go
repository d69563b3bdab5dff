package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Module keeps callbacks in a directory, for one process. It is the store where none is named.
type Module struct {
	// The directory. Handlers that name the same one share it. It is made where it is missing, and
	// has to belong to the user that Caddy runs as. Placeholders are replaced. Default:
	// deepgram_callback in Caddy's data directory.
	Dir string `json:"dir,omitempty"`

	path string // Dir, absolute
}

// CaddyModule returns the Caddy module information.
func (*Module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "deepgram_callback.stores.disk",
		New: func() caddy.Module { return new(Module) },
	}
}

// Provision implements [caddy.Provisioner]. It touches no file.
func (m *Module) Provision(caddy.Context) error {
	dir := filepath.Join(caddy.AppDataDir(), "deepgram_callback")
	if m.Dir != "" {
		var err error
		if dir, err = caddy.NewReplacer().ReplaceOrErr(m.Dir, true, true); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
	}
	var err error
	m.path, err = filepath.Abs(dir)
	return err
}

// Identity implements [spool.StoreModule]: it is the absolute path.
func (m *Module) Identity() string { return m.path }

// Open implements [spool.StoreModule].
func (m *Module) Open(
	_ context.Context,
	limits spool.Limits,
	events spool.StoreEvents,
) (spool.Store, error) {
	return Open(m.path, Options{MaxSize: limits.MaxBytes, Events: events})
}

// Exists implements [spool.WithExists].
func (m *Module) Exists(context.Context) (bool, error) {
	_, err := os.Stat(filepath.Join(m.path, index.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// UnmarshalCaddyfile implements [caddyfile.Unmarshaler]:
//
//	store disk [<dir>]
func (m *Module) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // its name
	switch args := d.RemainingArgs(); {
	case len(args) > 1:
		return d.ArgErr()
	case len(args) == 1 && strings.TrimSpace(args[0]) == "":
		return d.Err("store disk: an empty directory")
	case len(args) == 1:
		m.Dir = args[0]
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("it takes no block; there is no option %q", d.Val())
	}
	return nil
}

// Interface guards
var (
	_ spool.StoreModule     = (*Module)(nil)
	_ spool.WithExists      = (*Module)(nil)
	_ caddy.Provisioner     = (*Module)(nil)
	_ caddyfile.Unmarshaler = (*Module)(nil)
)
