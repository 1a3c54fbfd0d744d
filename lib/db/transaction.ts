// Implements transactions for every driver. Each transaction and each savepoint has a scope. The scope decides which
// handle may be used in the body. It also runs the tasks before the commit, and calls the listeners at the end. A
// transaction in which a statement has failed is never committed.
//
// The body runs in an async context with the scope. So keyrow detects a statement through an outer handle. Without this
// check, the statement would run outside of the transaction, or wait for a connection that the body uses.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, type DriverErrorKind, type SessionError, withEffect } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { shared } from '../core/process.js'
import type { ClientGuard, Database, Driver, DriverTransaction, Outcome } from './database.js'

interface Scope {
  readonly root: object
  /** The scope in which this scope began. The outer scope may belong to another database. */
  readonly around: Scope | undefined
  readonly endListeners: ((committed: boolean) => void)[]
  readonly commitTasks: TaskEither<SessionError, unknown>[]
  handle: Database | undefined
  over: boolean
  /** Whether the transaction was committed, or `undefined` until its end. */
  committed: boolean | undefined
  failed: DriverError | undefined
  /** Whether a client of another library has set the savepoint of `GUARD`. */
  isGuarded: boolean
  /** A promise that resolves at the end of the open savepoint. */
  savepoint: Promise<unknown> | undefined
}

const all = shared('transactions:1', () => ({ scopes: new AsyncLocalStorage<Scope>(), open: 0 }))
const { scopes } = all

// Before Node.js 24, AsyncLocalStorage slows down every promise. So keyrow disables it while no transaction is open.
const counted = async <A>(transactionScope: () => Promise<A>): Promise<A> => {
  all.open += 1
  try {
    return await transactionScope()
  } finally {
    all.open -= 1
    if (all.open === 0) scopes.disable()
  }
}

export const scopedDatabase = (driver: Driver): Database => {
  const root = {}
  const database: Database = {
    query: (query, params) => () =>
      innermost(root) === undefined ? driver.query(query, params)() : misuseError(OUTER),
    transaction: (body) => () =>
      innermost(root) === undefined
        ? counted(() => run(opened(root), driver.transaction, database, body))
        : misuseError(OUTER),
    close: driver.close,
    misuse: () => (innermost(root) === undefined ? undefined : OUTER()),
    current: () => innermost(root)?.handle,
  }
  return database
}

const opened = (root: object): Scope => ({
  root,
  around: scopes.getStore(),
  endListeners: [],
  commitTasks: [],
  handle: undefined,
  over: false,
  committed: undefined,
  failed: undefined,
  isGuarded: false,
  savepoint: undefined,
})

// Returns this database's innermost open scope in the async context, inside the scope `handle` if it is given.
const innermost = (root: object, handle?: Scope): Scope | undefined => {
  for (let scope = scopes.getStore(); scope !== undefined && scope !== handle; scope = scope.around)
    if (scope.root === root && !scope.over) return scope
  return undefined
}

const misuse = (kind: DriverErrorKind, message: string) => (): DriverError =>
  new DriverError(message, { kind, retryable: false, effect: 'none' })

const OUTER = misuse(
  'outerHandle',
  'an outer handle was used inside a transaction: use the handle of its body',
)
const OVER = misuse('transactionOver', 'the transaction of this handle has ended')
const NOT_CLOSED = misuse('outerHandle', 'a transaction cannot close its database')

const misuseError = (error: () => DriverError): Outcome<never> => Promise.resolve(E.left(error()))

/** Runs `body` in an async context with the scope. The scope ends with `body`. */
const run = async <L, A>(
  scope: Scope,
  begin: DriverTransaction['savepoint'],
  outer: Database,
  body: (tx: Database) => TaskEither<L, A>,
): Outcome<A, L> => {
  // A driver may call this function in another async context.
  const inContext = AsyncLocalStorage.snapshot()
  let committed = false
  try {
    const result = await begin<L | DriverError, A>(
      (tx) => () =>
        inContext(() => scopes.run(scope, () => runBody(scope, tx, body(handleOf(scope, tx, outer))))),
    )()
    committed = E.isRight(result)
    return result
  } finally {
    scope.over = true
    scope.committed = committed
    for (const listener of scope.endListeners) listener(committed)
  }
}

const runBody = async <L, A>(scope: Scope, tx: DriverTransaction, body: TaskEither<L, A>): Outcome<A, L> => {
  try {
    const result = await body()
    while (scope.savepoint !== undefined) await scope.savepoint
    if (E.isLeft(result)) return result
    await checkGuard(scope, tx)
    // A task may add further tasks, which this loop also runs.
    for (const task of scope.commitTasks) {
      if (scope.failed !== undefined) break
      const done = await task()
      // The type of `transact` includes these errors.
      if (E.isLeft(done)) return done as E.Left<DriverError>
    }
    return scope.failed === undefined ? result : E.left(scope.failed)
  } finally {
    scope.over = true
  }
}

const handleOf = (scope: Scope, tx: DriverTransaction, outer: Database): Database => {
  const whileOpen =
    <L, A>(act: () => Promise<E.Either<L, A>>) =>
    async (): Outcome<A, L> => {
      if (!scope.over && innermost(scope.root, scope) !== undefined) return misuseError(OUTER)
      // A statement waits for the end of a concurrent savepoint, whose rollback would also undo the statement.
      while (scope.savepoint !== undefined) await scope.savepoint
      return scope.over ? misuseError(OVER) : act()
    }
  const handle: Database = {
    query: (query, params) => whileOpen(() => recorded(scope, tx.query(query, params))),
    transaction: (body) => whileOpen(() => nested(scope, tx, handle, body)),
    close: () => misuseError(NOT_CLOSED),
    current: () => innermost(scope.root)?.handle,
    transactionScope: {
      transaction: scope,
      outer,
      beforeCommit: (task) => void scope.commitTasks.push(task),
      onEnd: (listener) => {
        if (scope.committed === undefined) scope.endListeners.push(listener)
        else listener(scope.committed)
      },
      client: () => tx.client?.(guardOf(scope)),
    },
  }
  scope.handle = handle
  return handle
}

// A statement of a client is not delayed until the end of a savepoint, but rejected.
const guardOf = (scope: Scope): ClientGuard => ({
  misuse: () => {
    if (scope.over) return OVER()
    return scope.savepoint === undefined && innermost(scope.root, scope) === undefined ? undefined : OUTER()
  },
  failed: (error) => {
    scope.failed ??= error
  },
  begin: () => {
    const isFirst = !scope.isGuarded
    scope.isGuarded = true
    return isFirst
  },
})

const recorded = async <A>(scope: Scope, statement: TaskEither<DriverError, A>): Outcome<A> => {
  const result = await statement()
  if (E.isRight(result)) return result
  // A transaction with a failed statement is never committed, so the statement has no effect.
  const failure = withEffect(result.left, 'none')
  scope.failed ??= failure
  return E.left(failure)
}

const nested = async <L, A>(
  scope: Scope,
  tx: DriverTransaction,
  handle: Database,
  body: (tx: Database) => TaskEither<L, A>,
): Outcome<A, L> => {
  const running = run(opened(scope.root), tx.savepoint, handle, body)
  const end = (): void => {
    scope.savepoint = undefined
  }
  scope.savepoint = running.then(end, end)
  return running
}

/** Implements savepoints as SQL statements. `query` sends a statement in the transaction. */
export const savepoints = (
  query: Driver['query'],
  client?: DriverTransaction['client'],
): DriverTransaction['savepoint'] => {
  let count = 0
  const savepoint: DriverTransaction['savepoint'] = (body) => async () => {
    count += 1
    const name = `keyrow_${String(count)}`
    const run = (text: string) => query({ name: 'savepoint', text: `${text} ${name}` }, [])()
    const opening = await run('savepoint')
    if (E.isLeft(opening)) return opening
    let committed = false
    try {
      const result = await body({ query, savepoint, ...(client && { client }) })()
      committed = E.isRight(result)
      if (E.isLeft(result)) return result
      const ended = await run('release savepoint')
      return E.isLeft(ended) ? ended : result
    } finally {
      if (!committed) await run('rollback to savepoint')
    }
  }
  return savepoint
}

// Another library, such as Drizzle or Kysely, may use a client inside a transaction of keyrow. Its commands for
// transactions are refused. Its BEGIN would only cause a warning, its COMMIT would commit keyrow's transaction, and the
// rollback to its savepoint would undo statements of keyrow without keyrow's knowledge.

const COMMAND =
  /^(?:\s|--[^\n]*\n|\/\*[^*]*\*+(?:[^/*][^*]*\*+)*\/)*(begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction)\b/i

/** Returns the error of a command that another library must not send. */
export const commandError = (command: string): DriverError =>
  new DriverError(
    `"${command}" cannot be sent in a transaction of keyrow: for a nested transaction, call transact with its handle`,
    { kind: 'outerHandle', retryable: false, effect: 'none' },
  )

/** Throws an error for a command that begins or ends a transaction or a savepoint. */
export const rejectCommand = (text: unknown): void => {
  const command = typeof text === 'string' ? COMMAND.exec(text)?.[1] : undefined
  if (command !== undefined) throw commandError(command)
}

/** The commands that set and release a savepoint, to find out whether the transaction has gone on until its end. */
export const GUARD = { set: 'savepoint keyrow_client', release: 'release savepoint keyrow_client' } as const

// The release fails if a statement has failed without keyrow's knowledge, or if a statement has ended the transaction.
const checkGuard = async (scope: Scope, tx: DriverTransaction): Promise<void> => {
  if (!scope.isGuarded || scope.failed !== undefined) return
  const released = await tx.query({ name: 'transaction client', text: GUARD.release }, [])()
  if (E.isRight(released)) return
  const { sqlState } = released.left
  scope.failed =
    sqlState === '25P02'
      ? withEffect(released.left, 'none')
      : new DriverError('a statement of another library has ended the transaction', {
          retryable: false,
          effect: 'unknown',
          cause: released.left,
        })
}
