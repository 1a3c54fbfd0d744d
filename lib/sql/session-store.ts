// The session store over any `Database`: one statement for each operation.

import * as E from 'fp-ts/lib/Either.js'
import { identity, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, SaveConflict, SchemaMismatch, SessionGone } from '../base/errors.js'
import type { Database, Query, Row } from '../port/database.js'
import { type Lifetime, lifetimeOf } from '../port/lifetime.js'
import type { Absence, Saved, SessionStore, StoreError } from '../port/session-store.js'
import { noEntries } from '../session/edits.js'
import type { Snapshot } from '../session/session.js'
import type { SaveId, SessionId } from '../session/token.js'
import { withHandles } from './handles.js'
import { listingStatements } from './listing.js'
import { listingOver } from './listing-store.js'
import { type RetryPolicy, retried, retryPolicyOf } from './retry.js'
import { type Decode, entriesParam, loadedRow, refreshedRow, savedRow, withChanges } from './rows.js'
import { saveOver } from './save.js'
import { prepareSchema, saysMissing } from './schema.js'
import { bare, DEFAULT_SCHEMA, quotedSchema } from './schema-state.js'
import { type SessionStatements, sessionStatements } from './statements.js'

export interface SessionStoreOptions extends Partial<Lifetime> {
  /** The PostgreSQL schema that holds the tables: lower-case letters, digits and `_`. Default: `keyrow`. */
  readonly schema?: string
  /** Whether to make the tables where they are missing, and to upgrade older ones. Default: true. */
  readonly upgradeSchema?: boolean
  /** How an operation that failed on its way is tried again. */
  readonly retry?: Partial<RetryPolicy>
}

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
  const shared: Shared = { database, sql: sessionStatements(schema), lifetime: lifetimeOf(options) }
  const again = retried(retryPolicyOf(options.retry ?? {}))
  const prepared = (handle: Database) => once(prepareSchema(handle, schema, options.upgradeSchema ?? true))
  let ready = false
  const prepare = pipe(
    prepared(database),
    TE.tapIO(() => () => {
      ready = true
    }),
  )
  return withHandles(storeOver({ ...shared, schema, prepare, again }), (tx) => {
    const own = ready ? TE.right(undefined) : prepared(tx)
    return storeOver({ ...shared, database: tx, schema, prepare: own, again: identity })
  })
}

/** How a store's operations are offered. */
interface Offer extends Shared {
  readonly schema: string
  readonly prepare: TE.TaskEither<StoreError, void>
  readonly again: ReturnType<typeof retried>
}

const storeOver = ({ prepare, again, schema, ...shared }: Offer): SessionStore => {
  /** An operation as the store offers it: once the tables are there, tried again where that helps. */
  const offered =
    <P extends readonly unknown[], L, A>(operation: (...params: P) => TE.TaskEither<L, A>) =>
    (...params: P): TE.TaskEither<L | StoreError, A> =>
      pipe(
        prepare,
        TE.chainW(() => operation(...params)),
        TE.mapLeft((error) => missing(schema, error)),
        again,
      )
  const listing = listingOver(shared.database, listingStatements(schema))
  const inner = { ...operations(shared), ...listing }
  return {
    lifetime: shared.lifetime,
    prepare: again(prepare),
    load: offered(inner.load),
    refresh: offered(inner.refresh),
    create: offered(inner.create),
    touch: offered(inner.touch),
    save: offered(inner.save),
    rotate: offered(inner.rotate),
    destroy: offered(inner.destroy),
    sessionsOf: offered(inner.sessionsOf),
    endAll: offered(inner.endAll),
    collect: offered(inner.collect),
  }
}

const missing = <L>(schema: string, error: L): L | SchemaMismatch =>
  error instanceof DriverError && saysMissing(error) ? new SchemaMismatch(bare(schema), error.message) : error

/** What the operations share. */
interface Shared {
  readonly database: Database
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
}

const operations = (
  shared: Shared,
): Omit<SessionStore, 'lifetime' | 'prepare' | 'over' | 'within' | keyof ReturnType<typeof listingOver>> => {
  const { database, sql, lifetime } = shared
  const reads = reading(shared)
  const save = saveOver({ database, sql, idleMs: lifetime.idleMs, refresh: reads.refresh })
  return { ...reads, ...writing(shared), ...ending(shared), save }
}

const reading = ({ database, sql, lifetime }: Shared): Pick<SessionStore, 'load' | 'refresh'> => {
  const times = [lifetime.idleMs, lifetime.idleMs * lifetime.touchFraction]
  return {
    load: (id, secret) =>
      pipe(
        database.query(sql.load, [id, secret, ...times]),
        TE.chainEitherKW(optional(loadedRow(sql.load))),
        TE.map(O.getOrElse((): E.Either<Absence, Snapshot> => E.left('unknown'))),
      ),
    refresh: (id, known) =>
      pipe(
        database.query(sql.refresh, [id, ...times, known.revision]),
        TE.chainEitherKW(optional(refreshedRow(sql.refresh))),
        TE.map(
          O.map(({ revision, expiration, since, changes }) => {
            const entries = withChanges(since === known.revision ? known.entries : noEntries, changes)
            return { revision, expiration, due: false, entries }
          }),
        ),
      ),
  }
}

const writing = ({ database, sql, lifetime }: Shared): Pick<SessionStore, 'create' | 'touch'> => ({
  create: (id, secret, save, entries) =>
    pipe(
      database.query(sql.create, [
        id,
        secret,
        entriesParam(entries),
        lifetime.idleMs,
        lifetime.absoluteMs,
        save,
      ]),
      TE.chainEitherKW(one(sql.create, savedRow(sql.create))),
      TE.orElse((error) =>
        error.sqlState === '23505' ? ownCreation(database, sql, id, save) : TE.left(error),
      ),
    ),
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
        rows.length > 0 ? TE.right(undefined) : lost(database.query(sql.alive, [id]), id),
      ),
    ),
  destroy: (id) =>
    pipe(
      database.query(sql.fence, [id]),
      TE.chain(() => database.query(sql.destroy, [id])),
      TE.map(() => undefined),
    ),
})

// Of those who rotate at once one wins; the others are told whether the session still lives.
const lost = (
  asked: TE.TaskEither<DriverError, readonly Row[]>,
  id: SessionId,
): TE.TaskEither<DriverError | SaveConflict | SessionGone, never> =>
  pipe(
    asked,
    TE.chainW((rows) =>
      TE.left(rows[0]?.['alive'] === true ? new SaveConflict(id, 'secret') : new SessionGone(id)),
    ),
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
