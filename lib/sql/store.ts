// The session store over any `Database`: one statement for each operation.
import * as E from 'fp-ts/lib/Either.js'
import { constVoid, identity, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, SaveConflict, SchemaMismatch, SessionGone, type StoreError } from '../core/errors.js'
import type { Snapshot } from '../core/session.js'
import { type IdempotencyKey, type SessionId, type VerifiableIds, verifiableIds } from '../core/token.js'
import { ownLifetimeOf } from '../core/well-known-keys.js'
import { type Database, type Param, type Query, type Row, readCommitted } from '../db/database.js'
import { type RetryPolicy, retried, retryPolicyOf } from '../db/retry.js'
import {
  type Absence,
  type Change,
  type Lifetime,
  lifetimeOf,
  type Saved,
  type SessionStore,
} from '../store/contract.js'
import { withTransactions } from '../store/in-transaction.js'
import { batchOver, batchStatements } from './batch.js'
import { citusPrincipals, citusStatements } from './citus.js'
import { ALIVE_AT_START, ALIVE_NOW } from './fragments.js'
import { principalStatements, principalsOver } from './principals.js'
import {
  type Decode,
  entriesParam,
  keysParams,
  loadedKeysRow,
  loadedRow,
  refreshedRow,
  savedRow,
  snapshotAfter,
  wholeOf,
} from './rows.js'
import { saveOver } from './save.js'
import { bare, DEFAULT_SCHEMA, prepareSchema, quotedSchema, saysMissing } from './schema.js'
import { type SessionStatements, sessionStatements } from './session-statements.js'

// The store's operations on one session: one statement for each, most of the time.

/** What the operations share. */
interface Shared {
  readonly database: Database
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
  readonly ambiguous: WeakSet<Change>
}

const operationsOver = (
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
        known?.versionTag ?? '',
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
      database.query(query, [id, ...timesOf(lifetime), known.revision, known.versionTag, ...own]),
      TE.chainEitherKW(optional(refreshedRow(query))),
      TE.map(
        O.map(({ revision, expiration, versionTag, ...row }) => {
          return {
            revision,
            expiration,
            touchDue: false,
            versionTag: versionTag as IdempotencyKey,
            ...snapshotAfter(known, keys, row),
          }
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
  save: IdempotencyKey,
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
  answer: TE.TaskEither<DriverError, readonly Row[]>,
  id: SessionId,
): TE.TaskEither<DriverError | SaveConflict | SessionGone, void> =>
  pipe(
    answer,
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

export interface SessionStoreOptions extends Partial<Lifetime> {
  /** The PostgreSQL schema that holds the tables: lower-case letters, digits and `_`. Default: `keyrow`. */
  readonly schema?: string
  /** Whether to make the tables where they are missing, and to upgrade older ones. Default: true. */
  readonly upgradeSchema?: boolean
  /** How an operation that failed on its way is tried again. */
  readonly retry?: Partial<RetryPolicy>
  /**
   * Whether the tables are spread over several servers (Citus): then only forms of statements are used that
   * run there. Default: false.
   */
  readonly citus?: boolean
}

/**
 * A session store in a database. It is ready at once; the tables are made (or found) before its first
 * statement. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { sessionStore } from 'keyrow/store'
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
  const { citus = false } = options
  const [lifetime, ids] = [lifetimeOf(options), verifiableIds()]
  const shared = { schema, lifetime, ids, citus, ambiguous: new WeakSet<Change>() }
  const withRetry = retried(retryPolicyOf(options.retry ?? {}))
  const own = readCommitted(database)
  const upgrade = options.upgradeSchema ?? true
  const root = preparation(
    pipe(
      prepareSchema(own, schema, upgrade),
      TE.tapIO((state) => () => {
        if (state.ids !== undefined) ids.learn(state.ids.key, lifetime.absoluteMs - state.ids.age)
      }),
      TE.map(constVoid),
    ),
  )
  return withTransactions(storeOver({ ...shared, database: own, preparation: root, withRetry }), (tx) => {
    // What is made there may be rolled back: nothing is learned from it.
    const inside = root.isDone()
      ? { ...root, run: TE.right(undefined) }
      : preparation(pipe(prepareSchema(tx, schema, upgrade), TE.map(constVoid)))
    return storeOver({ ...shared, database: tx, preparation: inside, withRetry: identity })
  })
}

/** What a store's operations are made of, and how they are offered. */
interface Offer {
  readonly database: Database
  readonly schema: string
  readonly lifetime: Lifetime
  readonly ids: VerifiableIds
  readonly citus: boolean
  readonly ambiguous: WeakSet<Change>
  readonly preparation: Preparation
  readonly withRetry: ReturnType<typeof retried>
}

const storeOver = (offer: Offer): SessionStore => {
  const withRetry = offering(offer)
  const inner = operations(offer)
  return {
    lifetime: offer.lifetime,
    ids: offer.ids,
    prepare: offer.withRetry(offer.preparation.run),
    load: withRetry(inner.load),
    refresh: withRetry(inner.refresh),
    create: withRetry(inner.create),
    touch: withRetry(inner.touch),
    save: withRetry(inner.save),
    rotate: withRetry(inner.rotate),
    destroy: withRetry(inner.destroy),
    sessionsOf: withRetry(inner.sessionsOf),
    endAll: withRetry(inner.endAll),
    deleteExpired: withRetry(inner.deleteExpired),
    ...(offer.database.misuse === undefined ? {} : { misuse: offer.database.misuse }),
    ...(offer.database.current === undefined ? {} : { current: offer.database.current }),
    ...(inner.batch === undefined
      ? {}
      : { batch: { load: withRetry(inner.batch.load), save: withRetry(inner.batch.save) } }),
  }
}

/**
 * An operation as the store offers it: once the tables are there, tried again where that helps. When it finds that they
 * are gone (or of an older version, after a restore), they are prepared again, and it is run once more.
 */
const offering =
  ({ schema, database, preparation, withRetry }: Offer) =>
  <P extends readonly unknown[], L, A>(operation: (...params: P) => TE.TaskEither<L, A>) =>
  (...params: P): TE.TaskEither<L | StoreError, A> => {
    const attempt = async (): Promise<E.Either<L | StoreError, A>> => {
      const prepared = await preparation.run()
      return E.isLeft(prepared) ? prepared : operation(...params)()
    }
    return withRetry(async () => {
      let result = await attempt()
      if (!isMissing(result)) return result
      preparation.forget()
      // A transaction in which a statement has failed does nothing more.
      if (database.transactionScope === undefined) result = await attempt()
      return isMissing(result) ? E.left(new SchemaMismatch(bare(schema), gone(result.left))) : result
    })
  }

const isMissing = (result: E.Either<unknown, unknown>): result is E.Left<DriverError> =>
  E.isLeft(result) && result.left instanceof DriverError && saysMissing(result.left)

const gone = ({ message }: DriverError): string =>
  `${message}; its tables were changed while this process used them, and the next operation prepares them again`

const operations = ({ database, schema, lifetime, citus, ambiguous }: Offer) => {
  const sql = sessionStatements(schema, citus ? ALIVE_AT_START : ALIVE_NOW)
  const principals = citus
    ? citusPrincipals(database, citusStatements(schema))
    : principalsOver(database, principalStatements(schema))
  const own = operationsOver({ database, sql, lifetime, ambiguous })
  const batch = citus
    ? undefined
    : batchOver(database, batchStatements(schema), lifetime, own.refresh, ambiguous)
  return { ...own, ...principals, batch }
}

interface Preparation {
  /** Runs the preparation for the first call, and again only after it has failed or was forgotten. */
  readonly run: TE.TaskEither<StoreError, void>
  readonly isDone: () => boolean
  readonly forget: () => void
}

const preparation = (task: TE.TaskEither<StoreError, void>): Preparation => {
  let running: Promise<E.Either<StoreError, void>> | undefined
  let done = false
  return {
    run: () => {
      running ??= task().then((result) => {
        done = E.isRight(result)
        if (!done) running = undefined
        return result
      })
      return running
    },
    isDone: () => done,
    // Not while it runs: what found the tables missing began before that.
    forget: () => {
      if (done) running = undefined
      done = false
    },
  }
}
