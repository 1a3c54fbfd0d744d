// Implements loads and saves of several sessions in one statement. Such a statement is one transaction, and needs one
// flush of the write-ahead log.

import { hasUpdates } from '../core/edits.js'
import type { StoreError } from '../core/errors.js'
import { E, type TE, t } from '../core/prelude.cjs'
import { afterTouch, hasUnloadedUpdates, type Keys, pick, type Snapshot } from '../core/session.js'
import type { IdempotencyKey } from '../core/token.js'
import { LIFETIME, PRINCIPAL } from '../core/well-known-keys.js'
import { type Database, ONCE_ON_PRIMARY, type Param, type Query, unnested } from '../db/database.js'
import type { Attempt } from '../db/deadline.js'
import { arrayOfJson } from '../db/text-format.js'
import type {
  Absence,
  BatchOperations,
  Change,
  Lifetime,
  LoadRequest,
  SavedSnapshot,
  SaveRequest,
  SessionStore,
  Unsaved,
} from '../store/contract.js'
import {
  ALIVE_NOW,
  baseRevision,
  changesSince,
  commitParts,
  type Durability,
  epoch,
  extendedExpiry,
  isRecent,
  loadedColumns,
  loadedKeys,
  needsRow,
  RECENT_SAVES,
  secretMatches,
  statementsOf,
  TOMBSTONE_REVISIONS,
  withSaves,
} from './fragments.js'
import {
  array,
  fullSnapshot,
  keysParams,
  LoadedRow,
  loadedKeysSnapshot,
  loadedSnapshot,
  rowsAs,
  texts,
  WrittenRow,
} from './rows.js'
import { merged, mergedWithoutRead } from './save.js'

// Concurrency: A batch of saves skips locked headers (`skip locked`), so it waits for no lock and takes part in no
// deadlock. Each skipped save is sent again. The batch locks every other header, and writes it like a single save.

const LOADS = [
  ['$1', 'uuid'],
  ['$2', 'text'],
  ['$3', 'float8'],
  ['$4', 'text'],
  ['$5', 'float8'],
] as const

// `late` is the parameter with the late saves of each session, as one string. The statement remembers these saves.
const saved = (schema: string, durability: Durability, late?: string): string => `
with ${commitParts(durability).cte}held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, base.since${late === undefined ? '' : ', i.late'}
  from ${unnested(['$1', 'uuid'], ['$2', 'float8'], ['$3', 'text'], ['$4', 'boolean'], ['$5', 'text'], ...(late === undefined ? [] : [[late, 'text'] as const]))}
         with ordinality as i (id, revision, tag, strict, saves, ${late === undefined ? '' : 'late, '}n)
  join ${schema}.session s on s.id = i.id
  cross join lateral (select ${baseRevision('s', 'i.revision', 'i.tag', 'i.revision > 0')} as since) base${commitParts(durability).join}
  where ${ALIVE_NOW} and (not i.strict or base.since = s.revision)
    and s.revision - i.revision < ${String(RECENT_SAVES)} and not ${isRecent('left(i.saves, 16)')}${late === undefined ? deletesNoTombstones : ''}
  for no key update of s skip locked
), head as (
  update ${schema}.session s
  set revision = s.revision + held.times, expires_at = ${extendedExpiry('$6')},
      recent_saves = ${withSaves('held.saves', '8 * held.times')}
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from ${unnested(['$7', 'int'], ['$8', 'text'], ['$9', 'text'])} as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)${late === undefined ? '' : lateParts(schema)}
select head.n::int as n, head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from ${schema}.session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then ${changesSince(schema, 'head.id', 'head.since')} end as changes
from head`

// A header may be newer than the revision that a process knows. So the statement itself leaves out a save at which old
// tombstones are deleted. Its saves are sent alone.
const deletesNoTombstones = `
    and s.revision % ${String(TOMBSTONE_REVISIONS)} + length(i.saves) / 16 < ${String(TOMBSTONE_REVISIONS)}`

const lateParts = (schema: string): string => `, tombstones as (
  delete from ${schema}.entry e using head
  where head.revision / ${String(TOMBSTONE_REVISIONS)} > head.before / ${String(TOMBSTONE_REVISIONS)}
    and e.session_id = head.id and e.value is null and e.revision <= head.revision - ${String(TOMBSTONE_REVISIONS)}
    and not exists (select from ${unnested(['$7', 'int'], ['$8', 'text'])} as w (n, key) where w.n = head.n and w.key = e.key)
), remembered as (
  insert into ${schema}.late_save (session_id, save, stored_at)
  select head.id, decode(held.late, 'hex'), now() from head join held on held.n = head.n where held.late <> ''
  on conflict do nothing
)`

export const batchStatements = statementsOf('batch', {
  // Arrays as text: $1 ids, $2 hashes of secrets, $3 base revisions, $4 version tags of $3, $5 expirations. Numbers: $6
  // idle time, $7 touch fraction. The result has no row for an unchanged session, and a row of nulls for an unknown
  // session.
  load: (schema) => `
select i.n::int as n, ${loadedColumns(schema, '$6', '$7')}
from ${unnested(...LOADS)}
       with ordinality as i (id, secret, revision, tag, expiration, n)
left join ${schema}.session s on s.id = i.id and ${secretMatches('i.secret')}
cross join lateral (select ${baseRevision('s', 'i.revision', 'i.tag', 'i.revision > 0')} as since) base
where ${ONCE_ON_PRIMARY} and ${needsRow('$6', '$7', 'i.expiration')}`,

  // Like `load`, with two more arrays: $8 wanted keys, $9 wanted keys that are not loaded
  loadKeys: (schema) => `
select i.n::int as n, ${loadedKeys(schema, 's.id', ['$6', '$7'], ['i.wanted', 'i.missing'])}
from ${unnested(...LOADS, ['$8', 'text'], ['$9', 'text'])}
       with ordinality as i (id, secret, revision, tag, expiration, wanted, missing, n)
left join ${schema}.session s on s.id = i.id and ${secretMatches('i.secret')}
cross join lateral (select ${baseRevision('s', 'i.revision', 'i.tag', 'i.revision > 0')} as since) base
where ${ONCE_ON_PRIMARY} and (i.missing <> '{}' or ${needsRow('$6', '$7', 'i.expiration')})`,

  // Arrays as text, for sessions: $1 ids, $2 base revisions, $3 version tags of $2, $4 whether the header must still
  // have revision $2, $5 the idempotency keys of merged saves, as one string. Number: $6 idle time. Arrays as text, for
  // edits: $7 ordinals of sessions, $8 keys, $9 values, null for a deletion. The result has no row for a session that
  // was not saved. `seen` and `changes` come from the statement's snapshot. The statement writes no principals.
  save: (schema, _, durability) => saved(schema, durability),

  // Like `save`, with an array of text: $10 the late saves of each session, as one string. This statement deletes old
  // tombstones.
  saveLate: (schema, _, durability) => saved(schema, durability, '$10'),
})

export type BatchStatements = ReturnType<typeof batchStatements>

/** Like `BatchOperations`, but `save` returns a function that makes one attempt. */
interface BatchAttempts extends Pick<BatchOperations, 'load'> {
  readonly save: (
    requests: readonly SaveRequest[],
  ) => Attempt<StoreError, readonly E.Either<Unsaved, SavedSnapshot>[]>
}

export const batchOver = (
  database: Database,
  sql: BatchStatements,
  lifetime: Lifetime,
  refresh: SessionStore['refresh'],
): BatchAttempts => ({
  load: loadBatch(database, sql, lifetime),
  save: saveBatch(database, sql.save, lifetime, refresh),
})

export const Ordinal = t.type({ n: t.number })
const BatchLoadedRow = t.intersection([Ordinal, t.union([LoadedRow, t.type({ revision: t.null })])])
const BatchWrittenRow = t.type({ ...WrittenRow.props, ...Ordinal.props })
type BatchWrittenRow = t.TypeOf<typeof BatchWrittenRow>

const UNKNOWN_ID: E.Either<Absence, never> = E.left('unknown')

type Loaded = E.Either<Absence, Snapshot>

const loadBatch = (database: Database, sql: BatchStatements, lifetime: Lifetime): BatchOperations['load'] => {
  const read =
    <R extends LoadRequest>(
      query: Query,
      requests: readonly R[],
      keys: readonly string[],
      loaded: (row: LoadedRow, request: R) => Loaded,
    ): TE.TaskEither<StoreError, readonly Loaded[]> =>
    async () => {
      const rows = await rowsAs(BatchLoadedRow)(database, query, [
        ...loadParams(requests, lifetime),
        ...keys,
      ])()
      if (E.isLeft(rows)) return rows
      // Most rows are missing, since most sessions have not changed.
      const results = requests.map(unchanged)
      for (const row of rows.right)
        results[row.n - 1] = row.revision === null ? UNKNOWN_ID : loaded(row, requests[row.n - 1] as R)
      return E.right(results)
    }
  return (requests) => {
    if (requests.every(hasKeys)) {
      const keys = requests.map(({ keys, known }) => keysParams(keys, known))
      const params = [texts(keys.map(([wanted]) => wanted)), texts(keys.map(([, missing]) => missing))]
      return read(sql.loadKeys, requests, params, (row, { known, keys }) =>
        loadedKeysSnapshot(row, known, keys),
      )
    }
    // If one request needs all keys, every request gets all keys.
    const full = requests.every(({ known }) => known?.keys === undefined)
      ? requests
      : requests.map(({ id, secret, keys, known }) => ({ id, secret, keys, known: fullSnapshot(known) }))
    return read(sql.load, full, [], (row, { known }) => loadedSnapshot(row, known))
  }
}

// The parameters of batches are made in loops. V8 compiles a loop over an array in a fraction of the time that it needs
// for calls of `map` with destructuring functions.

const loadParams = (
  requests: readonly LoadRequest[],
  { idleMs, touchFraction }: Lifetime,
): readonly Param[] => {
  const ids: string[] = []
  const secrets: string[] = []
  const revisions: number[] = []
  const tags: string[] = []
  const expirations: number[] = []
  for (const { id, secret, known } of requests) {
    ids.push(id)
    secrets.push(secret)
    revisions.push(known === undefined ? 0 : known.revision)
    tags.push(known === undefined ? '""' : known.versionTag)
    expirations.push(known === undefined ? 0 : known.expiration)
  }
  return [
    array(ids),
    array(secrets),
    array(revisions),
    array(tags),
    array(expirations),
    idleMs,
    touchFraction,
  ]
}

/** Returns the result of a request without a row: the session has not changed, or is unknown. */
const unchanged = ({ known, keys }: LoadRequest): Loaded => {
  if (known === undefined) return UNKNOWN_ID
  const snapshot = known.touchDue ? afterTouch(known) : known
  return E.right(keys === undefined || known.keys === undefined ? snapshot : pick(snapshot, keys))
}

const hasKeys = (request: LoadRequest): request is LoadRequest & { readonly keys: Keys } =>
  request.keys !== undefined

const saveBatch =
  (
    database: Database,
    query: Query,
    { idleMs }: Lifetime,
    refresh: SessionStore['refresh'],
  ): BatchAttempts['save'] =>
  (requests) => {
    const batchable = requests.every(isBatchable) ? requests : requests.filter(isBatchable)
    const params = saveParams(batchable, idleMs)
    return async (mayBeDone) => {
      const rows = await rowsAs(BatchWrittenRow)(database, query, params)()
      if (E.isLeft(rows)) return rows
      // A save without a row was not stored by this attempt. An earlier attempt may have stored the save.
      const unsaved: Outcome = mayBeDone ? MAY_BE_STORED : NOT_STORED
      const outcomes = new Array<Outcome>(batchable.length).fill(unsaved)
      await readOutcomes(refresh, batchable, rows.right, outcomes)
      return E.right(
        batchable === requests
          ? outcomes
          : requests.map((request) => outcomes[batchable.indexOf(request)] ?? NOT_STORED),
      )
    }
  }

type Outcome = E.Either<Unsaved, SavedSnapshot>

const NOT_STORED: Outcome = E.left('notStored')
const MAY_BE_STORED: Outcome = E.left('mayBeStored')

/** Sets the outcomes of the saves with a row. If a row lacks changes of other requests, reads the session again. */
const readOutcomes = async (
  refresh: SessionStore['refresh'],
  requests: readonly SaveRequest[],
  rows: readonly BatchWrittenRow[],
  outcomes: Outcome[],
): Promise<void> => {
  const reading: Promise<void>[] = []
  for (const row of rows) {
    const index = row.n - 1
    const request = requests[index] as SaveRequest
    const saved = mergedWithoutRead(request, versionTagOf(request), row)
    outcomes[index] = saved === undefined ? MAY_BE_STORED : E.right(saved)
    if (saved === undefined) reading.push(readAgain(refresh, request, row, outcomes))
  }
  if (reading.length > 0) await Promise.all(reading)
}

const readAgain = async (
  refresh: SessionStore['refresh'],
  request: SaveRequest,
  row: BatchWrittenRow,
  outcomes: Outcome[],
): Promise<void> => {
  const found = await merged(refresh, request.id, request, versionTagOf(request), row)()
  if (E.isRight(found)) outcomes[row.n - 1] = found
}

/** Whether a batch can do the save. A batch writes no principal or lifetime, and updates no unloaded key. */
const isBatchable = ({ edits, since }: SaveRequest): boolean =>
  !edits.has(PRINCIPAL) && !edits.has(LIFETIME) && !hasUnloadedUpdates(since, edits)

const versionTagOf = ({ changes }: SaveRequest): IdempotencyKey => changes.at(-1)?.save as IdempotencyKey

/** Returns the parameters of a batch of saves. If `strict` is undefined, only saves with updates are strict. */
export const saveParams = (
  requests: readonly SaveRequest[],
  idleMs: number,
  isStrict?: boolean,
): readonly Param[] => {
  const ids: string[] = []
  const revisions: number[] = []
  const tags: string[] = []
  const strict: boolean[] = []
  const saves: string[] = []
  const written: Written = { ordinals: [], keys: [], values: [] }
  for (const request of requests) {
    const { id, since, edits, changes } = request
    ids.push(id)
    revisions.push(since.revision)
    tags.push(since.versionTag)
    strict.push(isStrict ?? hasUpdates(edits))
    saves.push(savesOf(changes))
    addEdits(written, ids.length, request)
  }
  return [
    array(ids),
    array(revisions),
    array(tags),
    array(strict),
    array(saves),
    idleMs,
    array(written.ordinals),
    texts(written.keys),
    arrayOfJson(written.values),
  ]
}

/** The written entries of all sessions. `ordinals` has the ordinal of each entry's session. */
interface Written {
  readonly ordinals: number[]
  readonly keys: string[]
  readonly values: (string | null)[]
}

const addEdits = (written: Written, ordinal: number, { edits, entries }: SaveRequest): void => {
  edits.forEach((_, key) => {
    const value = entries.get(key)
    written.ordinals.push(ordinal)
    written.keys.push(key)
    written.values.push(value === undefined ? null : JSON.stringify(value))
  })
}

const savesOf = (changes: readonly Change[]): string =>
  changes.length === 1 ? (changes[0] as Change).save : changes.map(({ save }) => save).join('')
