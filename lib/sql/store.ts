// Implements the session store over a `Database`. Most operations take one statement.

import { DriverError, SaveConflict, SchemaMismatch, SessionGone, type StoreError } from '../core/errors.js'
import { constVoid, E, O, pipe, TE } from '../core/prelude.cjs'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import { type IdempotencyKey, type SessionId, type VerifiableIds, verifiableIds } from '../core/token.js'
import { ownLifetimeOf } from '../core/well-known-keys.js'
import { type Database, type Param, type Query, type Row, readCommitted } from '../db/database.js'
import { type Attempt, type RetryPolicy, retried, retryPolicyOf } from '../db/deadline.js'
import {
  type Absence,
  type BatchOperations,
  type LateSaves,
  type Lifetime,
  lifetimeOf,
  type Saved,
  type SessionStore,
  withTransactions,
} from '../store/contract.js'
import type { FlowStore } from '../store/flow-contract.js'
import { batchOver, batchStatements } from './batch.js'
import { flowStatements } from './flow-statements.js'
import { flowsOver, rowsBatch } from './flows.js'
import { ALIVE_AT_START, ALIVE_NOW, type Durability, durabilityOf } from './fragments.js'
import { lateOver, lateStatements } from './late.js'
import { citusPrincipals, principalsOver } from './principals.js'
import {
  entriesAfter,
  entriesParam,
  fullSnapshot,
  headerOf,
  keysParams,
  LoadedRow,
  loadedKeysSnapshot,
  loadedSnapshot,
  optionalRowAs,
  RefreshedRow,
  rowAs,
  rowsTo,
  SavedRow,
} from './rows.js'
import { saveOver, saveStatements } from './save.js'
import { bare, DEFAULT_SCHEMA, isMissing, prepareSchema, quotedSchema, TableGrowth } from './schema.js'
import { type SessionStatements, sessionStatements } from './session-statements.js'

interface Shared {
  readonly database: Database
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
}

type SaveStatements = ReturnType<typeof saveStatements>

const operationsOver = (shared: Shared, saves: SaveStatements, durable: SaveStatements) => {
  const refresh = refreshOver(shared)
  const save = saveOver({ ...shared, sql: saves, durable, refresh })
  return { load: loadOver(shared), refresh, ...writing(shared), ...rotating(shared), save }
}

// `load` and `save` run in almost every request. Each function of `TaskEither` makes three promises, so the code of
// these operations uses promises directly.

const UNKNOWN_ID: E.Either<Absence, never> = E.left('unknown')

const loadOver = ({ database, sql, lifetime }: Shared): SessionStore['load'] => {
  const { idleMs, touchFraction } = lifetime
  const read = (
    query: Query,
    params: readonly Param[],
    loaded: (row: LoadedRow) => E.Either<Absence, Snapshot>,
  ): ReturnType<SessionStore['load']> =>
    rowsTo(LoadedRow)(database, query, params, ([row]) =>
      E.right(row === undefined ? UNKNOWN_ID : loaded(row)),
    )
  return (id, secret, { known, keys } = {}) => {
    const base = keys === undefined ? fullSnapshot(known) : known
    const params = [id, secret, idleMs, touchFraction, base?.revision ?? 0, base?.versionTag ?? '']
    return keys === undefined
      ? read(sql.load, params, (row) => loadedSnapshot(row, base))
      : read(sql.loadKeys, [...params, ...keysParams(keys, known)], (row) =>
          loadedKeysSnapshot(row, known, keys),
        )
  }
}

/** A touch is never due if the session must not have been extended for this multiple of its idle time. */
const NEVER = 1e9

const refreshOver =
  ({ database, sql, lifetime: { idleMs, touchFraction } }: Shared): SessionStore['refresh'] =>
  (id, known, wanted = known.keys, touches = true) => {
    // A fully loaded session stays fully loaded, even if only some keys were requested.
    const keys = known.keys && wanted
    const params = [id, idleMs, touches ? touchFraction : NEVER, known.revision, known.versionTag]
    return pipe(
      keys === undefined
        ? optionalRowAs(RefreshedRow)(database, sql.refresh, params)
        : optionalRowAs(RefreshedRow)(database, sql.refreshKeys, [...params, ...keysParams(keys, known)]),
      TE.map(
        O.map((row) =>
          makeSnapshot(headerOf({ ...row, touchDue: false }), entriesAfter(known, keys, row), keys),
        ),
      ),
    )
  }

const writing = ({ database, sql, lifetime }: Shared): Pick<SessionStore, 'create' | 'touch'> => ({
  create: (id, secret, save, entries) => {
    const own = ownLifetimeOf(entries)
    const { idleMs, absoluteMs } = own ?? lifetime
    const params = [id, secret, entriesParam(entries), idleMs, absoluteMs, save, own?.idleMs ?? null]
    return pipe(
      rowAs(SavedRow)(database, sql.create, params),
      TE.orElse((error) =>
        error.sqlState === '23505' ? ownCreation(database, sql, id, save) : TE.left(error),
      ),
    )
  },
  touch: (id) =>
    pipe(
      optionalRowAs(SavedRow)(database, sql.touch, [id, lifetime.idleMs]),
      TE.chainW(TE.fromOption(() => new SessionGone(id))),
    ),
})

// Called if the new session's id already exists. Succeeds if an earlier attempt of this creation stored the session.
const ownCreation = (
  database: Database,
  sql: SessionStatements,
  id: SessionId,
  save: IdempotencyKey,
): TE.TaskEither<DriverError | SaveConflict, Saved> =>
  pipe(
    optionalRowAs(SavedRow)(database, sql.created, [id, save]),
    TE.chainW(TE.fromOption(() => new SaveConflict(id, 'create'))),
  )

const rotating = ({ database, sql, lifetime }: Shared): Pick<SessionStore, 'rotate' | 'destroy'> => ({
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
      TE.map(constVoid),
    ),
})

// Called if a rotation changed no row. Succeeds if an earlier attempt of this rotation has set the new secret. Only one
// of several concurrent rotations succeeds. The others fail with `SaveConflict` or `SessionGone`.
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

export interface SessionStoreOptions extends Partial<Lifetime> {
  /** The PostgreSQL schema of the tables. Its name has lower-case letters, digits and `_`. Default: `keyrow`. */
  readonly schema?: string
  /** Whether to create missing tables and to upgrade older ones. Default: true. */
  readonly upgradeSchema?: boolean
  /** How a failed operation is retried. */
  readonly retry?: Partial<RetryPolicy>
  /**
   * Whether saves and touches wait until they are on disk (`full`), or not (`relaxed`). With `relaxed` and PostgreSQL's
   * default settings, a crash of the database server may lose the saves and touches of the last 0.6 seconds. All other
   * operations wait. Default: `full`.
   */
  readonly durability?: Durability
  /** Whether Citus distributes the tables. The store then sends only statements that Citus supports. Default: false. */
  readonly citus?: boolean
}

/**
 * Makes a session store in a database. The store creates or upgrades its tables before its first statement. Throws a
 * `RangeError` for invalid options.
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
  const durability = durabilityOf(database, options)
  const [lifetime, ids] = [lifetimeOf(options), verifiableIds()]
  // The difference between the clock of the database and the clock of this process.
  let aheadMs = 0
  const clock = (): number => Date.now() + aheadMs
  const withRetry = retried(retryPolicyOf(options.retry ?? {}))
  const own = readCommitted(database)
  const shared = { schema, lifetime, ids, clock, citus, durability, growth: new TableGrowth(own, schema) }
  const upgrade = options.upgradeSchema ?? true
  const root = preparation(
    pipe(
      prepareSchema(own, schema, upgrade),
      TE.tapIO((state) => () => {
        if (!citus) shared.growth.begin(state.small)
        if (state.ids === undefined) return
        ids.learn(state.ids.key, lifetime.absoluteMs - state.ids.age)
        aheadMs = state.ids.now - Date.now()
      }),
      TE.map(constVoid),
    ),
  )
  return withTransactions(storeOver({ ...shared, database: own, preparation: root, withRetry }), (tx) => {
    // If the outer store has not prepared the tables, the store in the transaction prepares them. A rollback undoes
    // this preparation, so the outer store does not rely on it.
    const inside = root.isDone()
      ? { ...root, run: TE.right(undefined) }
      : preparation(pipe(prepareSchema(tx, schema, upgrade), TE.map(constVoid)))
    // A program's transaction keeps its own durability.
    return storeOver({ ...shared, database: tx, preparation: inside, withRetry: once, durability: 'full' })
  })
}

interface StoreParts {
  readonly database: Database
  readonly schema: string
  readonly lifetime: Lifetime
  readonly ids: VerifiableIds
  readonly clock: () => number
  readonly citus: boolean
  readonly durability: Durability
  readonly growth: TableGrowth
  readonly preparation: Preparation
  readonly withRetry: ReturnType<typeof retried>
}

const once: ReturnType<typeof retried> = (operation) => () => operation(false)

const storeOver = (parts: StoreParts): SessionStore => {
  const prepared = preparedOver(parts)
  const inner = operations(parts)
  return {
    lifetime: parts.lifetime,
    ids: parts.ids,
    clock: parts.clock,
    prepare: parts.withRetry(parts.preparation.run),
    load: prepared(inner.load),
    refresh: prepared(inner.refresh),
    create: parts.growth.counting('session', prepared(inner.create)),
    touch: prepared(inner.touch),
    save: prepared(inner.save),
    rotate: prepared(inner.rotate),
    destroy: prepared(inner.destroy),
    sessionsOf: prepared(inner.sessionsOf),
    endAll: prepared(inner.endAll),
    deleteExpired: prepared(inner.deleteExpired),
    flows: preparedFlows(prepared, inner.flows, parts.growth),
    ...(inner.late === undefined ? {} : { late: preparedLate(prepared, inner.late) }),
    ...(parts.database.misuse === undefined ? {} : { misuse: parts.database.misuse }),
    ...(parts.database.current === undefined ? {} : { current: parts.database.current }),
    ...(inner.batch === undefined ? {} : { batch: preparedBatch(prepared, inner.batch) }),
  }
}

const preparedBatch = (
  prepared: ReturnType<typeof preparedOver>,
  { load, save, addRows }: NonNullable<ReturnType<typeof operations>['batch']>,
): BatchOperations => ({ load: prepared(load), save: prepared(save), addRows: prepared(addRows) })

const preparedLate = (prepared: ReturnType<typeof preparedOver>, late: LateSaves): LateSaves => ({
  store: prepared(late.store),
  find: prepared(late.find),
  save: prepared(late.save),
  locked: (id, task) => prepared(() => late.locked(id, task))(),
  forget: prepared(() => late.forget)(),
})

// A repeated write saves the session's change only if the earlier attempt has not saved it.
const preparedFlows = (
  prepared: ReturnType<typeof preparedOver>,
  flows: FlowStore,
  growth: TableGrowth,
): FlowStore => ({
  read: prepared(flows.read),
  begin: growth.counting('flow', prepared(flows.begin)),
  write: prepared((write) => (mayBeDone) => {
    const { change } = write
    return flows.write(mayBeDone && change ? { ...write, change: { ...change, mayBeDone } } : write)()
  }),
  claim: prepared(flows.claim),
  record: prepared(flows.record),
  release: prepared(flows.release),
  list: prepared(flows.list),
  drop: prepared(flows.drop),
})

// Makes an operation wait for the preparation of the tables, and retries the operation. If a table or column is
// missing, for example after a restore, the tables are prepared again and the operation runs once more.
const preparedOver =
  ({ schema, database, preparation, withRetry }: StoreParts) =>
  <P extends readonly unknown[], L, A>(operation: (...params: P) => Attempt<L, A>) =>
  (...params: P): TE.TaskEither<L | StoreError, A> => {
    const attempt: Attempt<L | StoreError, A> = (mayBeDone) =>
      preparation.isDone()
        ? operation(...params)(mayBeDone)
        : preparation
            .run()
            .then((prepared): E.Either<L | StoreError, A> | Promise<E.Either<L | StoreError, A>> =>
              E.isLeft(prepared) ? prepared : operation(...params)(mayBeDone),
            )
    const again = async (
      mayBeDone: boolean,
      missing: E.Left<DriverError>,
    ): Promise<E.Either<L | StoreError, A>> => {
      preparation.forget()
      // Inside a transaction the operation is not repeated, since PostgreSQL has aborted the transaction.
      const result = database.transactionScope === undefined ? await attempt(mayBeDone) : missing
      return tablesAreMissing(result)
        ? E.left(new SchemaMismatch(bare(schema), changedTables(result.left)))
        : result
    }
    return withRetry((mayBeDone) =>
      attempt(mayBeDone).then((result) => (tablesAreMissing(result) ? again(mayBeDone, result) : result)),
    )
  }

const tablesAreMissing = (result: E.Either<unknown, unknown>): result is E.Left<DriverError> =>
  E.isLeft(result) && result.left instanceof DriverError && isMissing(result.left)

const changedTables = ({ message }: DriverError): string =>
  `${message}; its tables were changed while this process used them, and the next operation prepares them again`

const operations = ({ database, schema, lifetime, citus, durability }: StoreParts) => {
  const isAlive = citus ? ALIVE_AT_START : ALIVE_NOW
  const sql = sessionStatements(schema, isAlive, durability)
  const principals = (citus ? citusPrincipals : principalsOver)(database, schema, lifetime)
  const durable = saveStatements(schema, isAlive)
  const own = operationsOver(
    { database, sql, lifetime },
    saveStatements(schema, isAlive, durability),
    durable,
  )
  // A save that is stored together with a row of a flow is as durable as the row.
  const inside = (tx: Database): Pick<SessionStore, 'save' | 'refresh'> => {
    const parts = { database: tx, sql: sessionStatements(schema, isAlive), lifetime }
    const { save, refresh } = operationsOver(parts, durable, durable)
    return { save: (id, change) => () => save(id, change)(false), refresh }
  }
  const flowSql = flowStatements(schema, isAlive)
  const flows = flowsOver(database, flowSql, (tx) => inside(tx).save)
  if (citus) return { ...own, ...principals, flows, batch: undefined, late: undefined }
  const shared = { database, lifetime, refresh: own.refresh, inside }
  const batchSql = batchStatements(schema, isAlive, durability)
  const batch = {
    ...batchOver(database, batchSql, lifetime, own.refresh),
    addRows: rowsBatch(database, flowSql),
  }
  const late = lateOver({ ...shared, sql: lateStatements(schema, isAlive), batch: batchSql })
  return { ...own, ...principals, flows, batch, late }
}

interface Preparation {
  /** Runs the preparation at the first call, and again only after a failure or `forget`. */
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
    // A running preparation is kept, since it began after the statement that found no tables.
    forget: () => {
      if (done) running = undefined
      done = false
    },
  }
}
