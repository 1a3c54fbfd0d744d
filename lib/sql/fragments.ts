// Expressions that several statements share. `s` is a row of `session`.

/** A parameter in milliseconds, as an interval. */
export const ms = (parameter: string): string => `${parameter}::float8 * interval '1 millisecond'`

/** A timestamp as milliseconds since 1970. */
export const epoch = (timestamp: string): string => `date_part('epoch', ${timestamp}) * 1000`

/** Until when the id of an ended session is kept: longer than a network can hold up what was sent. */
export const FENCED = "now() + interval '1 hour'"

/** By the time that it is: what asks may have waited for a lock. */
export const ALIVE_NOW = 'expires_at > clock_timestamp()'

/** By the start of the statement: for a database that refuses to be asked more often. */
export const ALIVE_AT_START = 'expires_at > now()'

/**
 * A deleted key leaves a row without a value, which is kept for at least this many revisions: longer than anybody asks
 * what has changed since.
 */
export const TOMBSTONE_REVISIONS = 256

/** A header remembers so many saves, so that one whose answer was lost is not done twice. */
export const RECENT_SAVES = 64

/** The remembered saves, with new ones (in hexadecimal, of as many bytes as `size` says) at their end. */
export const withSaves = (ids: string, size: string): string =>
  `substring(recent_saves from greatest(1, length(recent_saves) + ${size} - ${String(RECENT_SAVES * 8 - 1)})) || decode(${ids}, 'hex')`

export const withSave = (save: string): string => withSaves(`${save}::text`, '8')

export const isRecent = (save: string): string => `position(decode(${save}::text, 'hex') in recent_saves) > 0`

/** The save that made the present revision. */
export const versionTagOf = (ids: string): string =>
  `encode(substring(${ids} from greatest(1, length(${ids}) - 7)), 'hex')`

/**
 * The revision that is known, if what is here came from it: the save that made it is where it should be among the
 * remembered ones. Else 0, from which on all is read: it is too far back, or the database was restored since.
 */
export const baseRevision = (s: string, revision: string, tag: string): string => `
         case when ${revision}::float8 > 0 and ${s}.revision - ${revision}::float8 between 0 and ${String(RECENT_SAVES - 1)}
                   and substring(${s}.recent_saves
                                 from length(${s}.recent_saves) - 7 - 8 * (${s}.revision - ${revision}::float8)::int for 8)
                       = decode(${tag}::text, 'hex')
              then ${revision}::float8 else 0 end`

/** {"set": [value], "deleted": []}: what was written after a revision. */
export const changesSince = (schema: string, id: string, revision: string): string => `
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from ${schema}.entry e
        where e.session_id = ${id} and e.revision > ${revision})`

/**
 * The same of some keys: those that are `wanted`, if they were written after it, and those that are `missing` in what is
 * known. By the primary key, so that it costs as much as there are keys, however many entries the session has.
 */
export const changesOfKeysSince = (
  schema: string,
  id: string,
  revision: string,
  [wanted, missing]: readonly [string, string],
): string => `
       (select json_object_agg(e.key, case when e.value is null then '[]'::json else json_build_array(e.value) end)::text
        from ${schema}.entry e
        where e.session_id = ${id} and e.key = any(${wanted}::text::text[])
          and (e.revision > ${revision} or e.key = any(${missing}::text::text[])))`

/** The idle time of a session: its own one, or the store's. */
const idleOf = (idle: string): string => `coalesce(idle_ms, ${idle}::float8) * interval '1 millisecond'`

/** Not greatest(now() + idle, …) alone: an expiration never moves backwards, nor past the absolute one. */
export const extendedExpiry = (idle: string): string =>
  `greatest(expires_at, least(now() + ${idleOf(idle)}, absolute_expires_at))`

/** When a session expires that begins now, unless it is used. */
export const initialExpiry = (idle: string, absolute: string): string =>
  `now() + least(${ms(idle)}, ${ms(absolute)})`

/** Worth a write: it can still move, and by at least this fraction of the idle time. */
export const touchDue = (idle: string, fraction: string): string =>
  `(expires_at < absolute_expires_at and now() + ${idleOf(idle)} - expires_at >= ${idleOf(idle)} * ${fraction}::float8)`

/** Whether this secret opens the session `s`. */
export const secretMatches = (secret: string): string => `
      (s.secret_hash = decode(${secret}::text, 'hex')
       or (s.previous_hash = decode(${secret}::text, 'hex') and s.previous_until > now()))`

/**
 * What a load gives of `s`, with `known.since`: nothing of an expired session, no entries when all is known, what
 * changed since, or all. An expired session is told from one that never was.
 */
export const loadedColumns = (schema: string, idle: string, fraction: string): string => `
       ${loadedHeader(idle, fraction)},
       case when s.expires_at <= now() or known.since = s.revision then null
            when known.since > 0 then ${changesSince(schema, 's.id', 'known.since')}
            else (select json_object_agg(e.key, e.value)::text
                  from ${schema}.entry e
                  where e.session_id = s.id and e.value is not null) end as entries`

/** The same of some keys: nothing when all is known of them, else what `keysWrittenAfter` gives. */
export const loadedKeys = (
  schema: string,
  id: string,
  [idle, fraction]: readonly [string, string],
  [wanted, missing]: readonly [string, string],
): string => `
       ${loadedHeader(idle, fraction)},
       case when s.expires_at <= now() or (known.since = s.revision and ${missing}::text = '{}') then null
            else ${changesOfKeysSince(schema, id, 'known.since', [wanted, missing])} end as entries`

const loadedHeader = (idle: string, fraction: string): string => `
       s.revision::float8 as revision, ${epoch('s.expires_at')} as expiration, ${touchDue(idle, fraction)} as "touchDue",
       s.expires_at <= now() as expired, ${versionTagOf('s.recent_saves')} as "versionTag", known.since`
