// The store's operations on several sessions in one statement.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { DriverError } from '../base/errors.js'
import type { Json } from '../base/json.js'
import type { Database, Param, Query, Row } from '../port/database.js'
import type { Lifetime } from '../port/lifetime.js'
import type {
  Absence,
  Change,
  LoadRequest,
  ManyOperations,
  SavedSnapshot,
  SaveRequest,
  SessionStore,
} from '../port/session-store.js'
import { arrayOfJson } from '../record/array.js'
import { hasUpdates } from '../session/edits.js'
import { hasUnknown, type Keys } from '../session/known.js'
import { LIFETIME } from '../session/own-lifetime.js'
import { PRINCIPAL } from '../session/principal.js'
import type { Snapshot } from '../session/session.js'
import type { SaveId } from '../session/token.js'
import { GRAVE_REVISIONS } from './expressions.js'
import type { ManyStatements } from './many.js'
import { array, keysParams, loadedKeysRow, loadedRow, texts, writtenRow } from './rows.js'
import { mayBeDone, merged, mergedAtOnce, type Written } from './save.js'

export const manyOver = (
  database: Database,
  sql: ManyStatements,
  lifetime: Lifetime,
  refresh: SessionStore['refresh'],
  tried: WeakSet<Change>,
): ManyOperations => ({
  load: loadMany(database, sql, lifetime),
  save: saveMany(database, sql.save, lifetime, refresh, tried),
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

const loadMany = (database: Database, sql: ManyStatements, lifetime: Lifetime): ManyOperations['load'] => {
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
  array(requests.map(({ known }) => (known === undefined ? '""' : known.mark))),
  idleMs,
  touchFraction,
]

const isOfKeys = (request: LoadRequest): request is LoadRequest & { readonly keys: Keys } =>
  request.keys !== undefined

const saveMany = (
  database: Database,
  query: Query,
  { idleMs }: Lifetime,
  refresh: SessionStore['refresh'],
  tried: WeakSet<Change>,
): ManyOperations['save'] => {
  const written = writtenRow(query)
  return (requests) => {
    const plain = requests.filter(isPlain)
    return async () => {
      const answered = await database.query(query, saveParams(plain, idleMs))()
      const rows = E.isLeft(answered) ? answered : placed(plain, answered.right, written)
      if (E.isLeft(rows)) {
        if (mayBeDone(rows.left))
          for (const { changes } of plain) for (const change of changes) tried.add(change)
        return rows
      }
      const outcomes = await outcomesOf(refresh, tried, plain, rows.right)
      return E.right(requests.map((request) => outcomes.get(request) ?? O.none))
    }
  }
}

type Outcomes = ReadonlyMap<SaveRequest, O.Option<SavedSnapshot>>

/** What each was saved as; most of them can be told from the row alone. */
const outcomesOf = async (
  refresh: SessionStore['refresh'],
  tried: WeakSet<Change>,
  requests: readonly SaveRequest[],
  rows: readonly (Written | undefined)[],
): Promise<Outcomes> => {
  const outcomes = new Map<SaveRequest, O.Option<SavedSnapshot>>()
  const looking: Promise<void>[] = []
  const look = async (request: SaveRequest, row: Written): Promise<void> => {
    outcomes.set(request, await outcome(refresh, tried, request, row))
  }
  for (const [index, request] of requests.entries()) {
    const row = rows[index]
    const saved = row && mergedAtOnce(request, markOf(request), row)
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
const isPlain = ({ edits, since, since: { revision }, changes }: SaveRequest): boolean =>
  !edits.has(PRINCIPAL) &&
  !edits.has(LIFETIME) &&
  !hasUnknown(since, edits) &&
  (revision % GRAVE_REVISIONS) + changes.length < GRAVE_REVISIONS

/** The last of the saves that are one. */
const markOf = ({ changes }: SaveRequest): SaveId => changes.at(-1)?.save as SaveId

/** What is stored, but could not be looked at, is left to a save by itself: it finds that it was done. */
const outcome = async (
  refresh: SessionStore['refresh'],
  tried: WeakSet<Change>,
  request: SaveRequest,
  row: Written,
): Promise<O.Option<SavedSnapshot>> => {
  const saved = await merged(refresh, request.id, request, markOf(request), row)()
  if (E.isRight(saved)) return O.some(saved.right)
  for (const change of request.changes) tried.add(change)
  return O.none
}

const saveParams = (requests: readonly SaveRequest[], idleMs: number): readonly Param[] => {
  const edits: { readonly n: number; readonly key: string; readonly value: Json | undefined }[] = []
  for (const [index, { edits: made, entries }] of requests.entries())
    for (const key of made.keys()) edits.push({ n: index + 1, key, value: entries.get(key) })
  return [
    array(requests.map(({ id }) => id)),
    array(requests.map(({ since }) => since.revision)),
    array(requests.map(({ since }) => since.mark)),
    array(requests.map(({ edits }) => hasUpdates(edits))),
    array(requests.map(({ changes }) => changes.map(({ save }) => save).join(''))),
    idleMs,
    array(edits.map(({ n }) => n)),
    texts(edits.map(({ key }) => key)),
    arrayOfJson(edits.map(({ value }) => (value === undefined ? null : JSON.stringify(value)))),
  ]
}
