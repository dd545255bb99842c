#!/bin/sh
# What the entrypoint of PostgreSQL's own image does with the variables that docker-compose.yml sets.
set -eu
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
    # shellcheck disable=SC2086  # several arguments in one variable, as the official entrypoint takes them
    initdb -D "$data" -U "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" -E UTF8 --locale C.UTF-8 $POSTGRES_INITDB_ARGS
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$data" postgres
fi
exec postgres -D "$data" -c "listen_addresses=*"
