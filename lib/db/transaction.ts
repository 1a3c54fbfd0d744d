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
        inContext(() => scopes.run(scope, () => runBody(scope, body(handleOf(scope, tx, outer))))),
    )()
    committed = E.isRight(result)
    return result
  } finally {
    scope.over = true
    scope.committed = committed
    for (const listener of scope.endListeners) listener(committed)
  }
}

const runBody = async <L, A>(scope: Scope, body: TaskEither<L, A>): Outcome<A, L> => {
  try {
    const result = await body()
    while (scope.savepoint !== undefined) await scope.savepoint
    if (E.isLeft(result)) return result
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

// A statement of a client is not delayed until the end of a concurrent savepoint, but rejected.
const guardOf = (scope: Scope): ClientGuard => ({
  misuse: () => {
    if (scope.over) return OVER()
    return scope.savepoint === undefined && innermost(scope.root, scope) === undefined ? undefined : OUTER()
  },
  failed: (error) => {
    scope.failed ??= error
  },
  checkpoint: () => {
    const { failed } = scope
    return () => {
      scope.failed = failed
    }
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

// The rest of this file handles the commands for transactions that another library, such as Drizzle or Kysely, sends on
// a client inside a transaction of keyrow. A transaction of the library becomes a savepoint. Otherwise its BEGIN would
// only cause a warning, and its COMMIT would commit keyrow's transaction.

/** Sends a text without parameters. */
type Send = (text: string) => PromiseLike<unknown>

interface Savepoints {
  readonly guard: ClientGuard
  readonly send: Send
  /** The open savepoints by name, each with the function that forgets the failures since it was set. */
  readonly open: Map<string, () => void>
  /** Whether the library's latest transaction was rolled back because its COMMIT failed. */
  isEnded: boolean
}

/** The savepoint that replaces a transaction of the library. */
const OWN = 'keyrow_client'

/**
 * Returns a function that runs a command for transactions. For another statement it returns `undefined`. A command that
 * would end keyrow's transaction, or that another command of the library would undo, rejects with a `DriverError`.
 */
export const clientCommands = (
  guard: ClientGuard,
  send: Send,
): ((text: unknown) => Promise<unknown> | undefined) => {
  const savepoints: Savepoints = { guard, send, open: new Map(), isEnded: false }
  return (text) => {
    const [, verb, rest = ''] = parsed(text)
    return verb === undefined ? undefined : runCommand(savepoints, verb, rest, String(text))
  }
}

/** Rejects a command for transactions on a client that cannot handle it. */
export const rejectCommand = (text: unknown): void => {
  const [command] = parsed(text)
  if (command !== undefined)
    throw refused(`"${command}" cannot be sent in a transaction of keyrow: call transact with its handle`)
}

const parsed = (text: unknown): readonly (string | undefined)[] =>
  COMMAND.exec(typeof text === 'string' && text.length < 200 ? normalized(text) : '') ?? []

const COMMAND = /^(begin|start|commit|end|rollback to|rollback|abort|savepoint|release)\b ?(.*)$/

/** Returns a command in lower case, without the words and signs that have no effect. */
const normalized = (text: string): string =>
  text
    .trim()
    .replace(/\s*;$/, '')
    .replaceAll(/\s+/g, ' ')
    .toLowerCase()
    .replace(/^(begin|start|commit|end|rollback|abort) (?:work|transaction)\b/, '$1')
    .replace(/^(release|rollback to) savepoint /, '$1 ')

const runCommand = async (
  savepoints: Savepoints,
  verb: string,
  rest: string,
  text: string,
): Promise<unknown> => {
  switch (verb) {
    case 'begin':
    case 'start':
      return beginOwn(savepoints, rest)
    case 'savepoint':
      return setSavepoint(savepoints, rest, text)
    case 'release':
    case 'rollback to':
      return endSavepoint(savepoints, rest, verb === 'rollback to', text)
    default:
      return endOwn(savepoints, rest, verb !== 'commit' && verb !== 'end')
  }
}

const refused = (message: string): DriverError =>
  new DriverError(message, { kind: 'outerHandle', retryable: false, effect: 'none' })

// keyrow's transactions are read committed. The library must not get a weaker transaction than it asked for.
const beginOwn = (savepoints: Savepoints, modes: string): Promise<unknown> => {
  if (!/^(isolation level read committed)?,? ?(read write)?$/.test(modes))
    throw refused(`a transaction inside a transaction of keyrow cannot be "${modes}"`)
  savepoints.isEnded = false
  return setSavepoint(savepoints, OWN, `savepoint ${OWN}`)
}

// If the release fails, since a statement before it has failed, the savepoint is rolled back, as COMMIT would do. Some
// libraries then send ROLLBACK, which has nothing left to do.
const endOwn = async (savepoints: Savepoints, rest: string, isUndone: boolean): Promise<unknown> => {
  const { open, send } = savepoints
  if (isUndone && rest === '' && savepoints.isEnded) return send(`select 'rolled back' where false`)
  if (!open.has(OWN) || rest !== '')
    throw refused(
      'transact ends the transaction: return from its body to commit, or throw an error to roll back',
    )
  const forget = open.get(OWN)
  open.delete(OWN)
  const undo = async (): Promise<unknown> => {
    await send(`rollback to ${OWN}`)
    forget?.()
    return send(`release ${OWN}`)
  }
  if (isUndone) return undo()
  try {
    return await send(`release ${OWN}`)
  } catch (error) {
    savepoints.isEnded = true
    await undo()
    throw new DriverError('commit: a statement of the transaction has failed, so it was rolled back', {
      sqlState: '25P02',
      retryable: false,
      cause: error,
    })
  }
}

/** Returns the error of a statement or savepoint that the rollback of an open savepoint would undo. */
export const nestedIsOpen = (): DriverError =>
  refused(
    'a nested transaction is still open: use its handle, and run nested transactions one after the other',
  )

// Two savepoints of one name are open only if the library runs two nested transactions at the same time. Then the
// rollback of one transaction would undo the other.
const setSavepoint = async (
  { open, guard, send }: Savepoints,
  name: string,
  text: string,
): Promise<unknown> => {
  if (open.has(name)) throw nestedIsOpen()
  open.set(name, guard.checkpoint())
  return send(text)
}

const endSavepoint = async (
  { open, send }: Savepoints,
  name: string,
  isUndone: boolean,
  text: string,
): Promise<unknown> => {
  const forget = open.get(name)
  open.delete(name)
  const result = await send(text)
  if (isUndone) forget?.()
  return result
}
