// Transactions as scopes, the same over every driver: which handle may be used where, what happens at their end,
// and that none is committed in which a statement has failed.
//
// A scope is bound while its body runs and reaches all that the body awaits. So the outer handle, used inside, is
// known to be: it would wait for a connection that only the body's own end can free, or work outside of the
// transaction that it was meant for.
import { AsyncLocalStorage } from 'node:async_hooks'
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, type DriverErrorKind, type SessionError, withEffect } from '../core/errors.js'
import { shared } from '../core/process.js'
import type { Database, Driver, DriverTransaction } from './database.js'

interface Scope {
  /** The database, the same for all its scopes. */
  readonly root: object
  /** The scope that was bound where this one was begun: perhaps one of another database. */
  readonly around: Scope | undefined
  readonly ends: ((committed: boolean) => void)[]
  readonly befores: TaskEither<SessionError, unknown>[]
  /** Its handle, once its body has that. */
  handle: Database | undefined
  using: boolean
  /** Whether it was committed, once that is known. */
  committed: boolean | undefined
  failed: DriverError | undefined
  /** The savepoint that is open in it, until its end. */
  savepoint: Promise<unknown> | undefined
}

/** The scopes, and how many are open. */
const all = shared('transactions:1', () => ({ scopes: new AsyncLocalStorage<Scope>(), open: 0 }))
const { scopes } = all

// Once it was used, AsyncLocalStorage (before Node.js 24) makes every promise of the process dearer: so it is off
// while no transaction is under way. What was bound before is over.
const counted = async <A>(transactionScope: () => Promise<A>): Promise<A> => {
  all.open += 1
  try {
    return await transactionScope()
  } finally {
    all.open -= 1
    if (all.open === 0) scopes.disable()
  }
}

/** A driver as a `Database`. */
export const scopedDatabase = (driver: Driver): Database => {
  const root = {}
  const database: Database = {
    query: (query, params) => () =>
      isAround(root, undefined) ? misuseError(OUTER) : driver.query(query, params)(),
    transaction: (body) => () =>
      isAround(root, undefined)
        ? misuseError(OUTER)
        : counted(() => run(opened(root), driver.transaction, database, body)),
    close: driver.close,
    misuse: () => (isAround(root, undefined) ? OUTER() : undefined),
    current: () => innermost(root)?.handle,
  }
  return database
}

const opened = (root: object): Scope => ({
  root,
  around: scopes.getStore(),
  ends: [],
  befores: [],
  handle: undefined,
  using: false,
  committed: undefined,
  failed: undefined,
  savepoint: undefined,
})

/** The innermost open scope of this database that we are in, as far as it is further in than `handle`. */
const innermost = (root: object, handle?: Scope): Scope | undefined => {
  for (let scope = scopes.getStore(); scope !== undefined && scope !== handle; scope = scope.around)
    if (scope.root === root && !scope.using) return scope
  return undefined
}

const isAround = (root: object, handle: Scope | undefined): boolean => innermost(root, handle) !== undefined

const misuse = (kind: DriverErrorKind, message: string) => (): DriverError =>
  new DriverError(message, { kind, retryable: false, effect: 'none' })

const OUTER = misuse(
  'outerHandle',
  'the outer handle was used inside of a transaction: use the one of its body',
)
const OVER = misuse('transactionOver', 'the transaction has ended: its handle does nothing any more')
const NOT_CLOSED = misuse('outerHandle', 'a transaction cannot close its database')

const misuseError = (error: () => DriverError): Promise<E.Either<DriverError, never>> =>
  Promise.resolve(E.left(error()))

/** Runs `body` in the scope: bound while it runs, over when it has ended, and told of its end. */
const run = async <L, A>(
  scope: Scope,
  begin: DriverTransaction['savepoint'],
  outer: Database,
  body: (tx: Database) => TaskEither<L, A>,
): Promise<E.Either<L | DriverError, A>> => {
  // A driver may call back from a context of its own.
  const inContext = AsyncLocalStorage.snapshot()
  let committed = false
  try {
    const result = await begin<L | DriverError, A>(
      (tx) => () =>
        inContext(() => scopes.run(scope, () => followed(scope, body(handleOf(scope, tx, outer))))),
    )()
    committed = E.isRight(result)
    return result
  } finally {
    scope.using = true
    scope.committed = committed
    for (const publish of scope.ends) publish(committed)
  }
}

const followed = async <L, A>(
  scope: Scope,
  body: TaskEither<L, A>,
): Promise<E.Either<L | DriverError, A>> => {
  try {
    const result = await body()
    while (scope.savepoint !== undefined) await scope.savepoint
    if (E.isLeft(result)) return result
    // A task may bring others along.
    for (const task of scope.befores) {
      if (scope.failed !== undefined) break
      const done = await task()
      // `transact` has these errors in its type.
      if (E.isLeft(done)) return done as E.Left<DriverError>
    }
    return scope.failed === undefined ? result : E.left(scope.failed)
  } finally {
    scope.using = true
  }
}

const handleOf = (scope: Scope, tx: DriverTransaction, outer: Database): Database => {
  const whileOpen =
    <L, A>(act: () => Promise<E.Either<L, A>>) =>
    async (): Promise<E.Either<L | DriverError, A>> => {
      if (!scope.using && isAround(scope.root, scope)) return misuseError(OUTER)
      // What comes from beside an open savepoint waits for its end, or it would go back with it.
      while (scope.savepoint !== undefined) await scope.savepoint
      return scope.using ? misuseError(OVER) : act()
    }
  const handle: Database = {
    query: (query, params) => whileOpen(() => noted(scope, tx.query(query, params))),
    transaction: (body) => whileOpen(() => nested(scope, tx, handle, body)),
    close: () => misuseError(NOT_CLOSED),
    current: () => innermost(scope.root)?.handle,
    transactionScope: {
      transaction: scope,
      outer,
      beforeCommit: (task) => void scope.befores.push(task),
      onEnd: (publish) => {
        if (scope.committed === undefined) scope.ends.push(publish)
        else publish(scope.committed)
      },
    },
  }
  scope.handle = handle
  return handle
}

const noted = async <A>(
  scope: Scope,
  statement: TaskEither<DriverError, A>,
): Promise<E.Either<DriverError, A>> => {
  const result = await statement()
  if (E.isRight(result)) return result
  // Its transaction is never committed, whatever came of the statement.
  const failure = withEffect(result.left, 'none')
  scope.failed ??= failure
  return E.left(failure)
}

const nested = async <L, A>(
  scope: Scope,
  tx: DriverTransaction,
  handle: Database,
  body: (tx: Database) => TaskEither<L, A>,
): Promise<E.Either<L | DriverError, A>> => {
  const running = run(opened(scope.root), tx.savepoint, handle, body)
  const end = (): void => {
    scope.savepoint = undefined
  }
  scope.savepoint = running.then(end, end)
  return running
}
