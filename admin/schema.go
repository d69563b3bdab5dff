package admin

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// withSchema adds `spool schema`, which needs no running Caddy, but a store in this binary that has
// tables.
func withSchema(parent *cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Prints the SQL that makes the tables of a shared inbox",
		Long: `
Prints the SQL that makes the tables which the store 'postgres' needs, for those
whose gateways may not make them themselves. Run it as the owner of the
database, then give the gateways' role what the last lines of it say:

	caddy deepgram-callback spool schema | psql --single-transaction --set ON_ERROR_STOP=1 inbox
`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().String("schema", "", "Name of the schema (default: that of the store)")
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		err := printSchema(cmd.OutOrStdout(), flags.String("schema"))
		return exitCode(err), err
	})
	parent.AddCommand(cmd)
	return parent
}

// printSchema asks the stores that are built in.
func printSchema(out io.Writer, name string) error {
	for _, module := range caddy.GetModules("deepgram_callback.stores") {
		tables, ok := module.New().(spool.WithSchema)
		if !ok {
			continue
		}
		sql, err := tables.SchemaSQL(name)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, strings.TrimSpace(sql))
		return err
	}
	return errors.New("no store of this binary has tables; build it with " +
		"--with github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres")
}
