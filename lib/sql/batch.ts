// The store's operations on several sessions in one statement.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { hasUpdates } from '../core/edits.js'
import type { DriverError } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { hasUnloadedUpdates, type Keys, type Snapshot } from '../core/session.js'
import type { IdempotencyKey } from '../core/token.js'
import { LIFETIME, PRINCIPAL } from '../core/well-known-keys.js'
import { type Database, ONCE_ON_PRIMARY, type Param, type Query, type Row } from '../db/database.js'
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
} from '../store/contract.js'
import {
  ALIVE_NOW,
  baseRevision,
  changesSince,
  epoch,
  extendedExpiry,
  isRecent,
  loadedColumns,
  loadedKeys,
  RECENT_SAVES,
  secretMatches,
  TOMBSTONE_REVISIONS,
  withSaves,
} from './fragments.js'
import { array, keysParams, loadedKeysRow, loadedRow, texts, writtenRow } from './rows.js'
import { mayBeDone, merged, mergedAtOnce, type Written } from './save.js'

// The statements for several sessions at once: what `session.load` and `session.save` do, for each of many. All of a
// statement is one transaction, and one flush of the log.
//
// Why they are safe: a save takes only headers that nobody else has (`skip locked`), so it waits for no lock and is
// part of no deadlock; the others are left to a save of their own. Under the header's lock it is as in a save of one.

export interface BatchStatements {
  readonly load: Query
  readonly loadKeys: Query
  readonly save: Query
}

// Arrays, as text: $1 ids, $2 hashes, $3 the revisions that are known, $4 their marks; $5 idle, $6 touch fraction.
const load = (schema: string): Query => ({
  name: 'batch.load',
  text: `
select i.n::int as n, ${loadedColumns(schema, '$5', '$6')}
from unnest($1::text::uuid[], $2::text::text[], $3::text::float8[], $4::text::text[])
       with ordinality as i (id, secret, revision, tag, n)
join ${schema}.session s on s.id = i.id and ${secretMatches('i.secret')}
cross join lateral (select ${baseRevision('s', 'i.revision', 'i.tag')} as since) known
where ${ONCE_ON_PRIMARY}`,
})

// As `load`, of some keys of each, as arrays in text: $7 those that are wanted, $8 those of them that are not known.
const loadKeys = (schema: string): Query => ({
  name: 'batch.loadKeys',
  text: `
select i.n::int as n, ${loadedKeys(schema, 's.id', ['$5', '$6'], ['i.wanted', 'i.missing'])}
from unnest($1::text::uuid[], $2::text::text[], $3::text::float8[], $4::text::text[], $7::text::text[], $8::text::text[])
       with ordinality as i (id, secret, revision, tag, wanted, missing, n)
join ${schema}.session s on s.id = i.id and ${secretMatches('i.secret')}
cross join lateral (select ${baseRevision('s', 'i.revision', 'i.tag')} as since) known
where ${ONCE_ON_PRIMARY}`,
})

// Arrays, as text, of sessions: $1 ids, $2 the revisions that the edits were made on, $3 their marks, $4 whether the
// header must still be as it was then, $5 the ids of the saves, all of a session's in one; and of edits: $7 whose, by
// place, $8 keys, $9 values, null to delete. $6 idle. A session for which nothing was done gives no row. `seen` is the
// header's revision in the statement's snapshot (known without looking where nobody has saved since $2), from which it
// also sees what changed. Principals are not listed here.
const save = (schema: string): Query => ({
  name: 'batch.save',
  text: `
with held as materialized (
  select i.id, i.n, i.saves, length(i.saves) / 16 as times, s.revision as before, known.since
  from unnest($1::text::uuid[], $2::text::float8[], $3::text::text[], $4::text::boolean[], $5::text::text[])
         with ordinality as i (id, revision, tag, strict, saves, n)
  join ${schema}.session s on s.id = i.id
  cross join lateral (select ${baseRevision('s', 'i.revision', 'i.tag')} as since) known
  where ${ALIVE_NOW} and (not i.strict or known.since = s.revision)
    and s.revision - i.revision < ${String(RECENT_SAVES)} and not ${isRecent('left(i.saves, 16)')}
  for update of s skip locked
), head as (
  update ${schema}.session s
  set revision = s.revision + held.times, expires_at = ${extendedExpiry('$6')},
      recent_saves = ${withSaves('held.saves', '8 * held.times')}
  from held where s.id = held.id
  returning s.id, s.revision, s.expires_at, held.n, held.before, held.since
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select head.id, e.key, e.value::jsonb, head.revision
  from unnest($7::text::int[], $8::text::text[], $9::text::text[]) as e (n, key, value) join head on head.n = e.n
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)
select head.n::int as n, head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration, head.since,
       case when head.since = head.before then head.revision - 1
            else (select revision from ${schema}.session s where s.id = head.id) + head.revision - head.before - 1
       end::float8 as seen,
       case when head.since > 0 and head.since < head.before
            then ${changesSince(schema, 'head.id', 'head.since')} end as changes
from head`,
})

/** `schema` is a quoted identifier. */
export const batchStatements = (schema: string): BatchStatements => ({
  load: load(schema),
  loadKeys: loadKeys(schema),
  save: save(schema),
})

export const batchOver = (
  database: Database,
  sql: BatchStatements,
  lifetime: Lifetime,
  refresh: SessionStore['refresh'],
  ambiguous: WeakSet<Change>,
): BatchOperations => ({
  load: loadBatch(database, sql, lifetime),
  save: saveBatch(database, sql.save, lifetime, refresh, ambiguous),
})

/** The rows by the place of their request, decoded with it; `undefined` where there is none. */
const placed = <R, A>(
  requests: readonly R[],
  rows: readonly Row[],
  decode: (row: Row, request: R) => E.Either<DriverError, A>,
): E.Either<DriverError, readonly (A | undefined)[]> => {
  const results: (A | undefined)[] = new Array<undefined>(requests.length).fill(undefined)
  for (const row of rows) {
    const n = row['n']
    const index = typeof n === 'number' ? n - 1 : 0
    const decoded = decode(row, requests[index] as R)
    if (E.isLeft(decoded)) return decoded
    results[index] = decoded.right
  }
  return E.right(results)
}

const loadBatch = (database: Database, sql: BatchStatements, lifetime: Lifetime): BatchOperations['load'] => {
  const [loaded, loadedKeys] = [loadedRow(sql.load), loadedKeysRow(sql.loadKeys)]
  const ask = <R extends LoadRequest>(
    query: Query,
    requests: readonly R[],
    keys: readonly string[],
    decode: (row: Row, request: R) => E.Either<DriverError, E.Either<Absence, Snapshot>>,
  ) =>
    pipe(
      database.query(query, [...loadParams(requests, lifetime), ...keys]),
      TE.chainEitherK((rows) => placed(requests, rows, decode)),
      TE.map((results) => results.map((found): E.Either<Absence, Snapshot> => found ?? E.left('unknown'))),
    )
  return (requests) => {
    if (requests.every(isOfKeys)) {
      const keys = requests.map(({ keys, known }) => keysParams(keys, known))
      const params = [texts(keys.map(([wanted]) => wanted)), texts(keys.map(([, missing]) => missing))]
      return ask(sql.loadKeys, requests, params, (row, { known, keys }) => loadedKeys(known, keys)(row))
    }
    // Where any asks for all, all are given all.
    const whole = requests.map((request) =>
      request.known?.keys === undefined ? request : { ...request, known: undefined },
    )
    return ask(sql.load, whole, [], (row, { known }) => loaded(known)(row))
  }
}

const loadParams = (
  requests: readonly LoadRequest[],
  { idleMs, touchFraction }: Lifetime,
): readonly Param[] => [
  array(requests.map(({ id }) => id)),
  array(requests.map(({ secret }) => secret)),
  array(requests.map(({ known }) => known?.revision ?? 0)),
  array(requests.map(({ known }) => (known === undefined ? '""' : known.versionTag))),
  idleMs,
  touchFraction,
]

const isOfKeys = (request: LoadRequest): request is LoadRequest & { readonly keys: Keys } =>
  request.keys !== undefined

const saveBatch = (
  database: Database,
  query: Query,
  { idleMs }: Lifetime,
  refresh: SessionStore['refresh'],
  ambiguous: WeakSet<Change>,
): BatchOperations['save'] => {
  const written = writtenRow(query)
  return (requests) => {
    const plain = requests.filter(isBatchable)
    return async () => {
      const results = await database.query(query, saveParams(plain, idleMs))()
      const rows = E.isLeft(results) ? results : placed(plain, results.right, written)
      if (E.isLeft(rows)) {
        if (mayBeDone(rows.left))
          for (const { changes } of plain) for (const change of changes) ambiguous.add(change)
        return rows
      }
      const outcomes = await outcomesOf(refresh, ambiguous, plain, rows.right)
      return E.right(requests.map((request) => outcomes.get(request) ?? O.none))
    }
  }
}

type Outcomes = ReadonlyMap<SaveRequest, O.Option<SavedSnapshot>>

/** What each was saved as; most of them can be told from the row alone. */
const outcomesOf = async (
  refresh: SessionStore['refresh'],
  ambiguous: WeakSet<Change>,
  requests: readonly SaveRequest[],
  rows: readonly (Written | undefined)[],
): Promise<Outcomes> => {
  const outcomes = new Map<SaveRequest, O.Option<SavedSnapshot>>()
  const looking: Promise<void>[] = []
  const look = async (request: SaveRequest, row: Written): Promise<void> => {
    outcomes.set(request, await outcome(refresh, ambiguous, request, row))
  }
  for (const [index, request] of requests.entries()) {
    const row = rows[index]
    const saved = row && mergedAtOnce(request, versionTagOf(request), row)
    if (saved !== undefined) outcomes.set(request, O.some(saved))
    else if (row !== undefined) looking.push(look(request, row))
  }
  await Promise.all(looking)
  return outcomes
}

/**
 * Not when a principal has to be listed, the session gets another lifetime, deleted keys are to be swept, or a value that is not known is to be updated:
 * that is left to a save by itself.
 */
const isBatchable = ({ edits, since, since: { revision }, changes }: SaveRequest): boolean =>
  !edits.has(PRINCIPAL) &&
  !edits.has(LIFETIME) &&
  !hasUnloadedUpdates(since, edits) &&
  (revision % TOMBSTONE_REVISIONS) + changes.length < TOMBSTONE_REVISIONS

/** The last of the saves that are one. */
const versionTagOf = ({ changes }: SaveRequest): IdempotencyKey => changes.at(-1)?.save as IdempotencyKey

/** What is stored, but could not be looked at, is left to a save by itself: it finds that it was done. */
const outcome = async (
  refresh: SessionStore['refresh'],
  ambiguous: WeakSet<Change>,
  request: SaveRequest,
  row: Written,
): Promise<O.Option<SavedSnapshot>> => {
  const saved = await merged(refresh, request.id, request, versionTagOf(request), row)()
  if (E.isRight(saved)) return O.some(saved.right)
  for (const change of request.changes) ambiguous.add(change)
  return O.none
}

const saveParams = (requests: readonly SaveRequest[], idleMs: number): readonly Param[] => {
  const edits: { readonly n: number; readonly key: string; readonly value: Json | undefined }[] = []
  for (const [index, { edits: made, entries }] of requests.entries())
    for (const key of made.keys()) edits.push({ n: index + 1, key, value: entries.get(key) })
  return [
    array(requests.map(({ id }) => id)),
    array(requests.map(({ since }) => since.revision)),
    array(requests.map(({ since }) => since.versionTag)),
    array(requests.map(({ edits }) => hasUpdates(edits))),
    array(requests.map(({ changes }) => changes.map(({ save }) => save).join(''))),
    idleMs,
    array(edits.map(({ n }) => n)),
    texts(edits.map(({ key }) => key)),
    arrayOfJson(edits.map(({ value }) => (value === undefined ? null : JSON.stringify(value)))),
  ]
}
