//go:build unix

package postgres

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

func parse(text string) (*Module, error) {
	m := new(Module)
	return m, m.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
}

func TestTheGrammarOfTheStore(t *testing.T) {
	m, err := parse(
		"postgres postgres://gw:{env.X}@db/inbox {\nschema calls\nconnections 20\nlease 1m\n}",
	)
	require.NoError(t, err)
	require.Equal(t, &Module{
		DSN: "postgres://gw:{env.X}@db/inbox", Schema: "calls", Connections: 20,
		Lease: caddy.Duration(60e9),
	}, m)
	for text, want := range map[string]string{
		"postgres":                              "it needs a data source name",
		"postgres \"\"":                         "it needs a data source name",
		"postgres a b":                          "it needs a data source name",
		"postgres dsn {\nschema A-B\n}":         `schema "A-B"`,
		"postgres dsn {\nschema\n}":             "schema needs one value",
		"postgres dsn {\nconnections 3\n}":      `connections: "3" is not a number of at least 4`,
		"postgres dsn {\nconnections many\n}":   `connections: "many"`,
		"postgres dsn {\nlease 10ms\n}":         `lease: "10ms" is not a duration of at least 1s`,
		"postgres dsn {\nlease 5s\nlease 6s\n}": "lease stands here a second time",
		"postgres dsn {\nsync off\n}": "unrecognized option sync; " +
			"there are schema, connections and lease",
	} {
		_, err := parse(text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestTheIdentityHasNoSecretInIt(t *testing.T) {
	t.Setenv("PASSWORD_OF_TEST", "the-secret")
	for dsn, want := range map[string]string{
		"postgres://gw:{env.PASSWORD_OF_TEST}@db.example/inbox?sslmode=require": "postgres://" +
			"db.example:5432/inbox?schema=deepgram_callback",
		"host=a,b port=1,2 user=gw password=the-secret dbname=x": "postgres://" +
			"a:1,b:2/x?schema=deepgram_callback",
	} {
		m := &Module{DSN: dsn}
		require.NoError(t, m.Provision(caddy.Context{}))
		require.Equal(t, want, m.Identity())
	}
	for dsn, want := range map[string]string{
		"": "no database is named",
		"postgres://gw:{env.NOT_SET_AT_ALL}@db/x": "a placeholder " +
			"in the name of the database is unknown or empty",
		"postgres://gw:the-secret@db:port/inbox": "the data source name cannot be read",
		"host=a password='the-secret":            "the data source name cannot be read",
	} {
		err := (&Module{DSN: dsn}).Provision(caddy.Context{})
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "the-secret")
	}
}

// A password that was changed is used without a restart.
func TestAPasswordCanChangeWhileTheStoreIsOpen(t *testing.T) {
	dsn := testpostgres.DSN(t)
	schema := testpostgres.NewSchema(t, dsn)
	testpostgres.Execute(
		t,
		dsn,
		`DROP ROLE IF EXISTS rotating; CREATE ROLE rotating SUPERUSER LOGIN PASSWORD 'one'`,
	)
	t.Cleanup(func() {
		testpostgres.Execute(t, dsn, `DROP OWNED BY rotating CASCADE; DROP ROLE rotating`)
	})
	as := func(user string) *Module {
		m := &Module{DSN: dsn, Schema: schema}
		if u, err := url.Parse(dsn); err == nil && strings.HasPrefix(u.Scheme, "postgres") {
			u.User = url.UserPassword(user, "one")
			m.DSN = u.String()
		} else {
			m.DSN += " user=" + user + " password=one"
		}
		require.NoError(t, m.Provision(caddy.Context{}))
		return m
	}
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	first := as(u.User.Username())
	store, err := first.Open(
		t.Context(),
		spool.Limits{},
		spool.StoreEvents{LiveStreams: func() int { return 7 }},
	)
	require.NoError(t, err)
	gateways, err := store.(spool.Shared).Gateways(t.Context())
	require.NoError(t, err)
	require.Len(t, gateways, 1)
	require.Equal(t, 7, gateways[0].LiveStreams)
	require.True(t, gateways[0].Self)
	defer func() { require.NoError(t, store.Close(context.Background())) }()
	whoami := func() (user string) {
		ask := database.SQL(`SELECT current_user`).Each(func(rows pgx.Rows) error {
			return rows.Scan(&user)
		})
		require.NoError(t, store.(*Store).db.Query(t.Context(), database.Quick, ask))
		return user
	}
	require.Equal(t, u.User.Username(), whoami())
	require.NoError(t, store.(spool.Reconfigurable).Reconfigure(as("rotating")))
	require.Equal(t, "rotating", whoami())
	_, err = put(t.Context(), store.(*Store), 1, "as another one")
	require.NoError(t, err)
}
