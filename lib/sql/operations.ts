// The store's operations on one session: one statement for each, most of the time.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, SaveConflict, SessionGone } from '../base/errors.js'
import type { Database, Param, Query, Row } from '../port/database.js'
import type { Lifetime } from '../port/lifetime.js'
import type { Absence, Change, Saved, SessionStore } from '../port/session-store.js'
import { ownLifetimeOf } from '../session/own-lifetime.js'
import type { Snapshot } from '../session/session.js'
import type { SaveId, SessionId } from '../session/token.js'
import {
  type Decode,
  entriesParam,
  keysParams,
  knownAfter,
  loadedKeysRow,
  loadedRow,
  refreshedRow,
  savedRow,
  wholeOf,
} from './rows.js'
import { saveOver } from './save.js'
import type { SessionStatements } from './statements.js'

/** What the operations share. */
export interface Shared {
  readonly database: Database
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
  readonly tried: WeakSet<Change>
}

export const operationsOver = (
  shared: Shared,
): Pick<SessionStore, 'load' | 'refresh' | 'create' | 'touch' | 'save' | 'rotate' | 'destroy'> => {
  const reads = reading(shared)
  const save = saveOver({ ...shared, refresh: reads.refresh })
  return { ...reads, ...writing(shared), ...ending(shared), save }
}

const reading = (shared: Shared): Pick<SessionStore, 'load' | 'refresh'> => ({
  load: loadOver(shared),
  refresh: refreshOver(shared),
})

const timesOf = ({ idleMs, touchFraction }: Lifetime) => [idleMs, touchFraction] as const

const loadOver = ({ database, sql, lifetime }: Shared): SessionStore['load'] => {
  const [loaded, loadedKeys] = [loadedRow(sql.load), loadedKeysRow(sql.loadKeys)]
  const ask = (
    query: Query,
    params: readonly Param[],
    known: Snapshot | undefined,
    keys: readonly string[],
    decode: Decode<E.Either<Absence, Snapshot>>,
  ) =>
    pipe(
      database.query(query, [
        ...params,
        ...timesOf(lifetime),
        known?.revision ?? 0,
        known?.mark ?? '',
        ...keys,
      ]),
      TE.chainEitherKW(optional(decode)),
      TE.map(O.getOrElse((): E.Either<Absence, Snapshot> => E.left('unknown'))),
    )
  return (id, secret, { known, keys } = {}) => {
    const whole = wholeOf(known)
    return keys === undefined
      ? ask(sql.load, [id, secret], whole, [], loaded(whole))
      : ask(sql.loadKeys, [id, secret], known, keysParams(keys, known), loadedKeys(known, keys))
  }
}

const refreshOver =
  ({ database, sql, lifetime }: Shared): SessionStore['refresh'] =>
  (id, known, wanted = known.keys) => {
    // Who knows all keeps all.
    const keys = known.keys && wanted
    const query = keys === undefined ? sql.refresh : sql.refreshKeys
    const own = keys === undefined ? [] : keysParams(keys, known)
    return pipe(
      database.query(query, [id, ...timesOf(lifetime), known.revision, known.mark, ...own]),
      TE.chainEitherKW(optional(refreshedRow(query))),
      TE.map(
        O.map(({ revision, expiration, mark, ...row }) => {
          return { revision, expiration, due: false, mark: mark as SaveId, ...knownAfter(known, keys, row) }
        }),
      ),
    )
  }

const writing = ({ database, sql, lifetime }: Shared): Pick<SessionStore, 'create' | 'touch'> => ({
  create: (id, secret, save, entries) => {
    const own = ownLifetimeOf(entries)
    const { idleMs, absoluteMs } = own ?? lifetime
    const params = [id, secret, entriesParam(entries), idleMs, absoluteMs, save, own?.idleMs ?? null]
    return pipe(
      database.query(sql.create, params),
      TE.chainEitherKW(one(sql.create, savedRow(sql.create))),
      TE.orElse((error) =>
        error.sqlState === '23505' ? ownCreation(database, sql, id, save) : TE.left(error),
      ),
    )
  },
  touch: (id) =>
    pipe(database.query(sql.touch, [id, lifetime.idleMs]), TE.chainEitherKW(living(id, savedRow(sql.touch)))),
})

// The id is taken: by this very save, if its first answer was lost.
const ownCreation = (
  database: Database,
  sql: SessionStatements,
  id: SessionId,
  save: SaveId,
): TE.TaskEither<DriverError | SaveConflict, Saved> =>
  pipe(
    database.query(sql.created, [id, save]),
    TE.chainEitherK(optional(savedRow(sql.created))),
    TE.chainW(TE.fromOption(() => new SaveConflict(id, 'create'))),
  )

const ending = ({ database, sql, lifetime }: Shared): Pick<SessionStore, 'rotate' | 'destroy'> => ({
  rotate: (id, from, to) =>
    pipe(
      database.query(sql.rotate, [id, from, to, lifetime.rotationGraceMs]),
      TE.chainW((rows) =>
        rows.length > 0 ? TE.right(undefined) : ownRotation(database.query(sql.rotated, [id, to]), id),
      ),
    ),
  destroy: (id) =>
    pipe(
      database.query(sql.fence, [id]),
      TE.chain(() => database.query(sql.destroy, [id])),
      TE.map(() => undefined),
    ),
})

// The secret is another one: this very rotation's, if its first answer was lost. Of those who rotate at once one
// wins; the others are told whether the session still lives.
const ownRotation = (
  asked: TE.TaskEither<DriverError, readonly Row[]>,
  id: SessionId,
): TE.TaskEither<DriverError | SaveConflict | SessionGone, void> =>
  pipe(
    asked,
    TE.chainEitherKW(([row]): E.Either<SaveConflict | SessionGone, void> => {
      if (row === undefined) return E.left(new SessionGone(id))
      return row['rotated'] === true ? E.right(undefined) : E.left(new SaveConflict(id, 'secret'))
    }),
  )

const optional =
  <A>(decode: Decode<A>) =>
  (rows: readonly Row[]): E.Either<DriverError, O.Option<A>> =>
    pipe(A.head(rows), O.traverse(E.Applicative)(decode))

const living =
  <A>(id: SessionId, decode: Decode<A>) =>
  (rows: readonly Row[]): E.Either<DriverError | SessionGone, A> =>
    pipe(
      A.head(rows),
      E.fromOption(() => new SessionGone(id)),
      E.chainW(decode),
    )

const one =
  <A>(query: Query, decode: Decode<A>) =>
  (rows: readonly Row[]): E.Either<DriverError, A> =>
    pipe(
      A.head(rows),
      E.fromOption(() => new DriverError(`${query.name} gave no row`, { retryable: false })),
      E.chain(decode),
    )
