// The session store over any `Database`: one statement for each operation.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, SaveConflict, SchemaMismatch, SessionGone } from '../base/errors.js'
import type { Database, Param, Query, Row } from '../port/database.js'
import { type Lifetime, lifetimeOf } from '../port/lifetime.js'
import type { SessionStore, StoreError } from '../port/session-store.js'
import type { SessionId } from '../session/token.js'
import { editsParam, entriesParam, savedRow, snapshotRow } from './rows.js'
import { DEFAULT_SCHEMA, prepareSchema, quotedSchema, saysMissing } from './schema.js'
import { type SessionStatements, sessionStatements } from './statements.js'

export interface SessionStoreOptions extends Partial<Lifetime> {
  /** The PostgreSQL schema that holds the tables: lower-case letters, digits and `_`. Default: `keyrow`. */
  readonly schema?: string
  /** Whether to make the tables where they are missing. Default: true. */
  readonly createSchema?: boolean
}

type Run = (query: Query, params: readonly Param[]) => TE.TaskEither<StoreError, readonly Row[]>

/**
 * A session store in a database. It is ready at once; the tables are made (or found) before its first
 * statement. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { sessionStore } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = sessionStore(database, { idleMs: 20 * 60_000 })
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const sessionStore = (database: Database, options: SessionStoreOptions = {}): SessionStore => {
  const schema = quotedSchema(options.schema ?? DEFAULT_SCHEMA)
  const prepare = once(prepareSchema(database, schema, options.createSchema ?? true))
  const run: Run = (query, params) =>
    pipe(
      prepare,
      TE.chainW(() => database.query(query, params)),
      TE.mapLeft((error) =>
        error instanceof DriverError && saysMissing(error)
          ? new SchemaMismatch(schema.slice(1, -1), error.message)
          : error,
      ),
    )
  const shared: Shared = { run, sql: sessionStatements(schema), lifetime: lifetimeOf(options) }
  return { lifetime: shared.lifetime, prepare, ...reading(shared), ...writing(shared), ...ending(shared) }
}

/** What the operations share. */
interface Shared {
  readonly run: Run
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
}

const reading = ({ run, sql, lifetime }: Shared): Pick<SessionStore, 'load' | 'refresh'> => {
  const times = [lifetime.idleMs, lifetime.idleMs * lifetime.touchFraction]
  return {
    load: (id, secret) =>
      pipe(run(sql.load, [id, secret, ...times]), TE.chainEitherKW(optional(snapshotRow(sql.load)))),
    refresh: (id) =>
      pipe(run(sql.refresh, [id, ...times]), TE.chainEitherKW(optional(snapshotRow(sql.refresh)))),
  }
}

const writing = ({ run, sql, lifetime }: Shared): Pick<SessionStore, 'create' | 'save' | 'touch'> => ({
  create: (id, secret, entries) =>
    pipe(
      run(sql.create, [id, secret, entriesParam(entries), lifetime.idleMs, lifetime.absoluteMs]),
      TE.mapLeft((error) => (isTaken(error) ? new SaveConflict(id, 'create') : error)),
      TE.chainEitherKW(one(sql.create, savedRow(sql.create))),
    ),
  save: (id, edits) =>
    pipe(
      run(sql.save, [id, editsParam(edits), lifetime.idleMs]),
      TE.chainEitherKW(living(id, savedRow(sql.save))),
    ),
  touch: (id) =>
    pipe(run(sql.touch, [id, lifetime.idleMs]), TE.chainEitherKW(living(id, savedRow(sql.touch)))),
})

const ending = ({ run, sql, lifetime }: Shared): Pick<SessionStore, 'rotate' | 'destroy'> => ({
  rotate: (id, from, to) =>
    pipe(
      run(sql.rotate, [id, from, to, lifetime.rotationGraceMs]),
      TE.chainW((rows) => (rows.length > 0 ? TE.right(undefined) : lost(run(sql.alive, [id]), id))),
    ),
  destroy: (id) =>
    pipe(
      run(sql.destroy, [id]),
      TE.map(() => undefined),
    ),
})

// Of those who rotate at once one wins; the others are told whether the session still lives.
const lost = (
  asked: TE.TaskEither<StoreError, readonly Row[]>,
  id: SessionId,
): TE.TaskEither<StoreError | SaveConflict | SessionGone, never> =>
  pipe(
    asked,
    TE.chainW((rows) =>
      TE.left(rows[0]?.['alive'] === true ? new SaveConflict(id, 'secret') : new SessionGone(id)),
    ),
  )

const isTaken = (error: StoreError): boolean => error instanceof DriverError && error.sqlState === '23505'

type Decode<A> = (row: Row) => E.Either<DriverError, A>

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

/** Runs the task for the first who asks, and again only after it has failed. */
const once = <E, A>(task: TE.TaskEither<E, A>): TE.TaskEither<E, A> => {
  let running: Promise<E.Either<E, A>> | undefined
  return () => {
    running ??= task().then((result) => {
      if (E.isLeft(result)) running = undefined
      return result
    })
    return running
  }
}
