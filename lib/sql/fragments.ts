// Defines parts of SQL that several statements share. `s` is a row of `session`. `schema` is a quoted identifier.
import { type Database, type Query, unplanned } from '../db/database.js'
import { RECENT_SAVES } from '../store/contract.js'

export { RECENT_SAVES }

/** A tombstone is kept for at least this many revisions. A reader with an older snapshot gets all entries. */
export const TOMBSTONE_REVISIONS = 256

/** Converts a parameter in milliseconds to an interval. */
export const ms = (parameter: string): string => `${parameter}::float8 * interval '1 millisecond'`

/** Converts a timestamp to milliseconds since 1970. */
export const epoch = (timestamp: string): string => `date_part('epoch', ${timestamp}) * 1000`

/** The time for which the id of an ended session is fenced. No network delays a statement for an hour. */
export const FENCE_TIME = "interval '1 hour'"

/** The end of a fence that begins now. */
export const FENCED = `now() + ${FENCE_TIME}`

/** The SQL condition that a session is live now. It reads the clock, since the statement may have waited for a lock. */
export const ALIVE_NOW = 'expires_at > clock_timestamp()'

/** For Citus: the session was live at the transaction's start. Citus rejects volatile functions in an update. */
export const ALIVE_AT_START = 'expires_at > now()'

/** Whether a commit waits until the log is on disk (`full`). */
export type Durability = 'full' | 'relaxed'

const DURABILITIES: readonly string[] = ['full', 'relaxed'] satisfies readonly Durability[]

/**
 * Checks the option `durability` of a store.
 *
 * @throws `RangeError` for another value, and for a relaxed store on Citus or PGlite
 */
export const durabilityOf = (
  { isEmbedded = false }: Database,
  { durability = 'full', citus = false }: { readonly durability?: Durability; readonly citus?: boolean },
): Durability => {
  if (!DURABILITIES.includes(durability))
    throw new RangeError(`durability is ${JSON.stringify(durability)}: it must be 'full' or 'relaxed'`)
  // Citus runs no volatile function in a statement for several shards.
  if (durability === 'relaxed' && citus)
    throw new RangeError("durability: 'relaxed' is not possible with citus: true")
  // PGlite writes a commit that does not wait to disk only with the next commit that waits.
  if (durability === 'relaxed' && isEmbedded)
    throw new RangeError("durability: 'relaxed' is not possible with PGlite")
  return durability
}

/** The parts of a statement with a given durability: a common table expression, and two clauses that read from it. */
interface CommitParts {
  readonly cte: string
  readonly from: string
  readonly join: string
}

/**
 * Returns the parts with which a statement sets the durability of its own commit. PostgreSQL runs the common table
 * expression only if another part of the statement reads from it. The setting ends with the statement's transaction.
 */
export const commitParts = (durability: Durability): CommitParts =>
  durability === 'full'
    ? { cte: '', from: '', join: '' }
    : {
        cte: "relaxed as materialized (select set_config('synchronous_commit', 'off', true)), ",
        from: ' from relaxed',
        join: ' cross join relaxed',
      }

type Text = (schema: string, isAlive: string, durability: Durability) => string

/** Makes statements named `group.name` from their texts. `isAlive` is the SQL condition that a session is live. */
export const statementsOf =
  <N extends string>(group: string, texts: Readonly<Record<N, Text>>) =>
  (schema: string, isAlive = ALIVE_NOW, durability: Durability = 'full'): Readonly<Record<N, Query>> => {
    const names = Object.keys(texts) as N[]
    const query = (name: N): Query => ({
      name: `${group}.${name}`,
      text: texts[name](schema, isAlive, durability),
    })
    return Object.fromEntries(names.map((name) => [name, query(name)])) as Record<N, Query>
  }

/** Fences ids, so that a delayed creation fails. `ids` is a `select` or `values` with pairs of an id and `FENCED`. */
export const fence = (schema: string, ids: string): string => `
insert into ${schema}.listing (session_id, collect_at) ${ids}
on conflict (session_id) do update set principal = null, collect_at = excluded.collect_at`

/** Fences the ids of the locked sessions (`held`) that have a row in `listing`. */
export const fenceListed = (schema: string, condition = ''): string => `
  update ${schema}.listing l set principal = null, collect_at = ${FENCED}
  from held where l.session_id = held.id${condition}
  returning true`

interface EndingParts {
  /** Common table expressions before the one that locks the sessions (`held`). */
  readonly before?: readonly string[]
  /** Selects the sessions to end, and locks them in the order of the ids, unless it skips locked rows. */
  readonly lockedSessions: string
  /** Whether the statement deletes the entries in one scan. Otherwise the foreign key does so, session by session. */
  readonly deletesEntries?: boolean
  /** A statement that fences the ids of the locked sessions (`held`). */
  readonly fenced: string
  /** Common table expressions after the one that fences the ids (`fenced`). */
  readonly after?: readonly string[]
  readonly result: string
}

// Makes a statement that ends sessions. The statement locks their headers, deletes the sessions and their flows, and
// fences their ids. Every save locks the header too, so no save runs between these steps. The flows are deleted after
// the headers, since a write of a flow locks the header first. A flow that begins while the statement waits for a header
// is not deleted. No operation reads such a flow, and the cleanup deletes it later.
export const endingOf = (schema: string, parts: EndingParts): string => {
  const emptied = `emptied as (
  delete from ${schema}.entry e using held where e.session_id = held.id
)`
  const ended = `ended as (
  delete from ${schema}.session s using held where s.id = held.id returning s.id
)`
  const flows = `flows as (
  delete from ${schema}.flow f using ended where f.session_id = ended.id
)`
  return `
with ${[
    ...(parts.before ?? []),
    `held as materialized (${parts.lockedSessions}\n)`,
    ...(parts.deletesEntries === true ? [emptied] : []),
    ended,
    flows,
    `fenced as (${parts.fenced}\n)`,
    ...(parts.after ?? []),
  ].join(', ')}
${parts.result}`
}

/** Appends new idempotency keys to the recent ones. `ids` has the new keys in hexadecimal, in total `size` bytes. */
export const withSaves = (ids: string, size: string): string =>
  `substring(recent_saves from greatest(1, length(recent_saves) + ${size} - ${String(RECENT_SAVES * 8 - 1)})) || decode(${ids}, 'hex')`

export const withSave = (save: string): string => withSaves(`${save}::text`, '8')

export const isRecent = (save: string): string => `position(decode(${save}::text, 'hex') in recent_saves) > 0`

/** The idempotency key of the save that made the current revision. */
export const versionTagOf = (ids: string): string =>
  `encode(substring(${ids} from greatest(1, length(${ids}) - 7)), 'hex')`

// The caller's revision, if the recent idempotency keys have the version tag at the position of this revision.
// Otherwise the revision is too old or the database was restored, and the result is 0. If the planner knew that a
// parameter is 0, it would plan the statement again at each execution.
export const baseRevision = (
  s: string,
  revision: string,
  tag: string,
  isKnown = `${unplanned(`${revision}::float8`)} > 0`,
): string => `
         case when ${isKnown} and ${s}.revision - ${revision}::float8 between 0 and ${String(RECENT_SAVES - 1)}
                   and substring(${s}.recent_saves
                                 from length(${s}.recent_saves) - 7 - 8 * (${s}.revision - ${revision}::float8)::int for 8)
                       = decode(${tag}::text, 'hex')
              then ${revision}::float8 else 0 end`

// The planner adds the cost of reading all entries of a session to the cost of each load and save, although most of them
// read none. For sessions of a few thousand keys the sum exceeds `jit_above_cost`, and PostgreSQL then compiles the
// statement at each execution, which takes 100 ms. With a limit that the planner does not see it assumes a tenth of the
// rows.
const fromEntries = (schema: string, condition: string): string => `
        from (select e.key, e.value from ${schema}.entry e where ${condition} limit ${unplanned('1000000000')}) e`

/** The entries written after a revision, as `{"key": [value], "deletedKey": []}`. */
export const changesSince = (
  schema: string,
  id: string,
  revision: string,
  condition = `e.revision > ${revision}`,
): string => `
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text${fromEntries(schema, `e.session_id = ${id} and ${condition}`)})`

// The `wanted` entries written after a revision, and all `missing` entries, which the caller has never loaded. Both are
// arrays of keys, or arrays as text. The read uses the primary key, so its cost depends on the number of these keys only.
export const changesOfKeysSince = (
  schema: string,
  id: string,
  revision: string,
  [wanted, missing]: readonly [string, string],
): string =>
  changesSince(
    schema,
    id,
    revision,
    `e.key = any(${wanted}::text[])
          and (e.revision > ${revision} or e.key = any(${missing}::text[]))`,
  )

/** A parameter with an array of keys, as text. */
export const keysArray = (parameter: string): string => unplanned(`${parameter}::text::text[]`)

/** The session's own idle time, or the store's idle time if the session has none. */
const idleOf = (idle: string): string => `coalesce(idle_ms, ${idle}::float8) * interval '1 millisecond'`

/** The extended expiration. It is at least the old expiration, and at most the absolute expiration. */
export const extendedExpiry = (idle: string): string =>
  `greatest(expires_at, least(now() + ${idleOf(idle)}, absolute_expires_at))`

/** The expiration of a session that begins now. */
export const initialExpiry = (idle: string, absolute: string): string =>
  `now() + least(${ms(idle)}, ${ms(absolute)})`

/** Whether a touch would extend the expiration by at least this fraction of the idle time. */
export const touchDue = (idle: string, fraction: string): string =>
  `(expires_at < absolute_expires_at and now() + ${idleOf(idle)} - expires_at >= ${idleOf(idle)} * ${fraction}::float8)`

/** Whether this secret opens the session `s`. */
export const secretMatches = (secret: string): string => `
      (s.secret_hash = decode(${secret}::text, 'hex')
       or (s.previous_hash = decode(${secret}::text, 'hex') and s.previous_until > now()))`

// The result columns of a load of the session `s`. `entries` has the changes after the revision `base.since`, or all
// entries if `base.since` is 0. If nothing has changed, no entries are read. `expired` is true for an expired session.
export const loadedColumns = (schema: string, idle: string, fraction: string): string => `
       ${loadedHeader(idle, fraction)},
       case when s.expires_at <= now() or base.since = s.revision then null
            when base.since > 0 then ${changesSince(schema, 's.id', 'base.since')}
            else (select json_object_agg(e.key, e.value)::text${fromEntries(schema, 'e.session_id = s.id and e.value is not null')}) end as entries`

/** The result columns of a load of some keys. If the caller has the current values of these keys, no entry is read. */
export const loadedKeys = (
  schema: string,
  id: string,
  [idle, fraction]: readonly [string, string],
  [wanted, missing]: readonly [string, string],
): string => `
       ${loadedHeader(idle, fraction)},
       case when s.expires_at <= now() or (base.since = s.revision and ${missing} = '{}') then null
            else ${changesOfKeysSince(schema, id, 'base.since', [wanted, missing])} end as entries`

// Whether a load in a batch needs a result row. It needs none if the session is live, its revision is `since`, its
// expiration is `expiration` in milliseconds, and no touch is due.
export const needsRow = (idle: string, fraction: string, expiration: string): string => `
  (s.id is null or base.since <> s.revision or s.expires_at <= now()
   or ${epoch('s.expires_at')} <> ${expiration} or ${touchDue(idle, fraction)})`

const loadedHeader = (idle: string, fraction: string): string => `
       s.revision::float8 as revision, ${epoch('s.expires_at')} as expiration, ${touchDue(idle, fraction)} as "touchDue",
       s.expires_at <= now() as expired, ${versionTagOf('s.recent_saves')} as "versionTag", base.since`
