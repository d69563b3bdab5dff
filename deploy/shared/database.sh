#!/bin/sh
# Starts one of the databases. It is the primary if PRIMARY is its own name. Otherwise it is a standby of that
# one, which it copies when it has no data yet; PGPASSWORD is what it follows the primary with.
set -eu

if [ "$PRIMARY" != "$(uname -n)" ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
	chmod 700 "$PGDATA"
	until pg_basebackup --host "$PRIMARY" --username replication --pgdata "$PGDATA" \
		--write-recovery-conf --checkpoint fast; do
		echo "$PRIMARY cannot be copied yet" >&2
		sleep 2
	done
	# When it is promoted, there is no standby that its commits could wait for.
	echo "synchronous_standby_names = ''" >>"$PGDATA/postgresql.auto.conf"
fi
exec docker-entrypoint.sh postgres
