// Reads that must be current. A pooler that balances reads (pgpool-II) sends a plain `select` to a standby, which may
// lag behind: a session would open after its end. It leaves to the primary what may write, and so every statement with
// a function that PostgreSQL calls volatile. Each read of this library therefore has one: a condition that always holds.
// A comment in front of the statement would do only where `allow_sql_comments` is off.

/**
 * For a statement of few rows, and for all that run on Citus: asked of each row that the other conditions leave. It
 * changes no access path, and keeps a statement of one shard one.
 */
export const ON_PRIMARY = 'clock_timestamp() is not null'

/** The same for a statement of many rows: asked once, before the first of them. */
export const ONCE_ON_PRIMARY = `(select ${ON_PRIMARY})`
