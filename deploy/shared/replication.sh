#!/bin/sh
# Runs once, when the image has made the primary's database: lets standbys follow, and has commits wait until
# one of them has them, from the next start on.
set -eu

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password PGPASSWORD
CREATE ROLE replication LOGIN REPLICATION PASSWORD :'password';
ALTER SYSTEM SET synchronous_standby_names = '*';
ALTER SYSTEM SET wal_keep_size = '1GB'; -- for a standby that was away
SQL
echo 'host replication replication all scram-sha-256' >>"$PGDATA/pg_hba.conf"
