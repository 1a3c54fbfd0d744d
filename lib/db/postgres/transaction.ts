// Runs transactions through postgres.js. postgres.js itself would continue a transaction whose connection was lost. It
// would also roll back the whole transaction after a failed statement in a savepoint.

import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, type Effect, withEffect } from '../../core/errors.js'
import { E, identity, pipe } from '../../core/prelude.cjs'
import type { ClientGuard, DriverTransaction, Outcome } from '../database.js'
import { codeOf, driverError, isLostConnection, withDeadline } from '../deadline.js'
import { commandError, GUARD, rejectCommand } from '../transaction.js'
import type { Scoped } from './pool.js'
import { type Link, send } from './statement.js'
import { isAnothers, lost, noteFailure, notSent } from './workarounds.js'

type Body<L, A> = (tx: DriverTransaction) => TaskEither<L, A>

/** The connection of a transaction. `lost` is the error that ended the transaction. Later statements are not sent. */
interface TxLink extends Link {
  lost: DriverError | undefined
  /** Whether postgres.js may already use this connection for another transaction. */
  gone: boolean
}

interface TxState<L, A> {
  result?: E.Either<L, A>
  thrown?: { readonly error: unknown }
}

/** Runs `act` in a transaction or a savepoint of postgres.js. */
type Begin = (act: (tx: Scoped) => Promise<void>) => Promise<unknown>

export const transact = async <L, A>(body: Body<L, A>, link: Link): Outcome<A, L> => {
  // `spentMs` and `unsent` concern only BEGIN. An unsent statement of the body must not repeat the transaction.
  const txLink: TxLink = { ...link, lost: undefined, gone: false, spentMs: 0, unsent: undefined }
  const { pool } = link
  const begin: Begin = (act) => {
    let isBegun = false
    const failed = (error: unknown): never => {
      const isUnsent = !isBegun && isUnsentBegin(error)
      noteFailure(pool.health, error, isBegun, isUnsent)
      const own = isAnothers(error, isBegun)
        ? lost('begin', error)
        : isUnsent
          ? notSent('begin', pool, error)
          : error
      if (isUnsent && own instanceof DriverError) link.unsent?.(own)
      txLink.gone = true
      txLink.lost ??= driverError('transaction', own)
      throw own
    }
    const acting = (tx: Scoped): Promise<void> => {
      isBegun = true
      return act(tx)
    }
    const run = pool.sql.begin(READ_COMMITTED, acting).catch(failed)
    pool.pending.add(run)
    const done = (): void => void pool.pending.delete(run)
    run.then(done, done)
    return run
  }
  return runWithin(txLink, { begin, first: 'begin', last: 'commit', link }, body)
}

// Defect: BEGIN on a full connection (postgres.js 3.4.9).
// Symptom: If the socket of a connection is full, or the connection has too many statements, postgres.js sends BEGIN
// without reserving the connection. The transaction then fails with UNSAFE_TRANSACTION, but stays open on the server.
// Statements of other callers run in this transaction, and are answered before it is committed. A socket can be full if
// it uses TLS, or if keyrow has not made it.
// Workaround: keyrow sends COMMIT on each free connection, to end the open transaction. On a connection without a
// transaction, COMMIT only causes a warning. Then keyrow begins again, which is safe because no body has run.
export const retryUnsafeBegin = async <L, A>(transact: () => Outcome<A, L>, link: Link): Outcome<A, L> => {
  const { pool } = link
  for (let attempt = 1; ; attempt += 1) {
    const result = await transact()
    if (E.isRight(result) || !isUnsafeBegin(result.left) || attempt >= 20) return result
    if (pool.health !== undefined) pool.health.suspect = true
    await Promise.all(Array.from({ length: pool.sql.options.max ?? 10 }, () => commit(link)))
  }
}

const commit = ({ pool, timeoutMs }: Link): Promise<unknown> =>
  withDeadline('commit', timeoutMs, () => pool.sql.unsafe('commit'))

// postgres.js adds the text of a sent statement to the error. If an error has no such text, nothing was sent.
const isUnsentBegin = (error: unknown): boolean =>
  (error as { readonly query?: unknown } | undefined)?.query === undefined

const isUnsafeBegin = (error: unknown): boolean =>
  error instanceof DriverError && codeOf(error.cause) === 'UNSAFE_TRANSACTION'

// After a wait for a lock, a statement must see the newest commits. A stricter default of the role would prevent this.
const READ_COMMITTED = 'isolation level read committed'

const savepoint = async <L, A>(tx: Scoped, txLink: TxLink, body: Body<L, A>): Outcome<A, L> =>
  txLink.lost === undefined
    ? runWithin(txLink, { begin: (act) => tx.savepoint(act), first: 'savepoint', last: undefined }, body)
    : E.left(txLink.lost)

// `first` and `last` are the names of the steps in error messages. A savepoint has no `last`. After a lost connection
// keyrow does not wait for the end of a savepoint.
interface Around {
  readonly begin: Begin
  readonly first: string
  readonly last: string | undefined
  readonly link?: Link
}

const runWithin = async <L, A>(
  txLink: TxLink,
  { begin, first, last, link }: Around,
  body: Body<L, A>,
): Outcome<A, L> => {
  const txState: TxState<L, A> = {}
  let started = (): void => undefined
  let ended = (): void => undefined
  const start = new Promise<void>((resolve) => (started = resolve))
  const end = new Promise<void>((resolve) => (ended = resolve))
  const late = lateReporter(txLink)
  const run = begin(async (tx) => {
    started()
    if (txLink.lost === undefined) await runBody(txState, body(guarded(tx, txLink)))
    ended()
    return finish(txState, txLink)
  })
  run.catch(() => undefined)
  const opening = () => Promise.race([start, run])
  const opened = await withDeadline(first, txLink.timeoutMs, opening, late, link?.spentMs)
  if (E.isLeft(opened)) return unopened(txLink, opened.left, link)
  await end
  if (last === undefined && txLink.lost !== undefined) return outcome(txState, undone(E.left(txLink.lost)))
  const isUndone = last === undefined || txLink.lost !== undefined
  const done = await withDeadline(last ?? 'release', txLink.timeoutMs, () => run, late)
  return outcome(txState, isUndone ? undone(done) : done)
}

// Returns a function that reports a missed deadline to the pool. `lateReporter` is called when the step is sent.
const lateReporter = (txLink: TxLink): (() => Effect) => {
  const sentAt = performance.now()
  return () => {
    txLink.late(sentAt)
    return 'unknown'
  }
}

/** Sets the effect of an error to `none`. The server rolls back a transaction for which no COMMIT was sent. */
const undone = <A>(result: E.Either<DriverError, A>): E.Either<DriverError, A> =>
  pipe(
    result,
    E.mapLeft((error) => withEffect(error, 'none')),
  )

// Returns the error of a transaction whose body never ran. The transaction has no effect, even if BEGIN was sent.
const unopened = (txLink: TxLink, error: DriverError, link: Link | undefined): E.Left<DriverError> => {
  txLink.lost ??= error
  const failure = withEffect(error, 'none')
  if (error.cause === undefined) link?.unsent?.(failure)
  return E.left(failure) as E.Left<DriverError>
}

const runBody = async <L, A>(txState: TxState<L, A>, body: TaskEither<L, A>): Promise<void> => {
  try {
    txState.result = await body()
  } catch (error) {
    txState.thrown = { error }
  }
}

// Defect: the end of a lost transaction (postgres.js 3.4.9).
// Symptom: postgres.js sends the lost transaction's rollback or commit on a connection that may run another
// transaction.
// Workaround: After a lost connection `finish` never returns to postgres.js, so postgres.js sends nothing.
const finish = async <L, A>({ result }: TxState<L, A>, txLink: TxLink): Promise<void> => {
  if (txLink.gone || (txLink.lost !== undefined && isLostConnection(txLink.lost)))
    await new Promise(() => undefined)
  if (result === undefined || E.isLeft(result)) throw new Error('rolled back')
}

const outcome = <L, A>(
  { result, thrown }: TxState<L, A>,
  run: E.Either<DriverError, unknown>,
): E.Either<L | DriverError, A> => {
  if (thrown !== undefined) throw thrown.error
  if (result !== undefined && E.isLeft(result)) return result
  if (E.isLeft(run)) return run
  return result ?? E.left(driverError('transaction', new Error('it has no result')))
}

// Makes a client of postgres.js for another library, inside a transaction of keyrow. The client has all members of the
// transaction's `Sql`, and those of a pool with one connection. `options` are the options of the pool, since Drizzle
// changes their parsers. keyrow does not use the parsers.
const transactionClient = (tx: Scoped, txLink: TxLink, guard: ClientGuard): unknown => {
  const refuse = (): void => {
    const misuse = guard.misuse() ?? txLink.lost
    if (misuse !== undefined) throw misuse
  }
  const send =
    (act: (...input: never[]) => unknown, textOf: (input: unknown) => unknown) =>
    (...input: unknown[]): unknown => {
      refuse()
      rejectCommand(textOf(input[0]))
      return observeStatement(act(...(input as never[])), { tx, txLink, guard, refuse })
    }
  const nested = (): Promise<never> => Promise.reject(commandError('begin'))
  const unsafe = send(tx.unsafe.bind(tx), identity)
  const notify = (channel: string, payload: unknown): unknown =>
    unsafe('select pg_notify($1, $2)', [channel, String(payload)])
  const client = send(tx as unknown as (...input: never[]) => unknown, taggedText)
  const reserve = (): Promise<unknown> => Promise.resolve(client)
  const { options } = txLink.pool.sql
  Object.setPrototypeOf(client, tx)
  return Object.assign(client, {
    options,
    unsafe,
    notify,
    reserve,
    ...REFUSED,
    begin: nested,
    savepoint: nested,
  })
}

/** Returns the text of a tagged statement before its first parameter. A name or a list of values is no statement. */
const taggedText = (input: unknown): unknown =>
  Array.isArray(input) && 'raw' in input ? (input as readonly unknown[])[0] : undefined

const refusing = (command: string) => (): never => {
  throw commandError(command)
}

/** The members of postgres.js that would leave the transaction, and those that have no effect. */
const REFUSED = {
  prepare: refusing('prepare'),
  file: refusing('file'),
  release: () => undefined,
  end: () => Promise.resolve(),
}

interface ClientContext {
  readonly tx: Scoped
  readonly txLink: TxLink
  readonly guard: ClientGuard
  readonly refuse: () => void
}

interface Observed {
  handler?: (statement: unknown) => unknown
  reject?: (error: unknown) => void
}

// A statement of postgres.js calls its property `handler` when it is sent, which may be long after it was made, and
// `reject` when it has failed. keyrow cannot call `then`, because this would send the statement, and a part of a
// statement is of the same class and never sent.
const observeStatement = (pending: unknown, { tx, txLink, guard, refuse }: ClientContext): unknown => {
  const statement = pending as Observed
  const { handler, reject } = statement
  if (!(pending instanceof Promise) || handler === undefined || reject === undefined) return pending
  const fail = (error: unknown): void => {
    if (!(error instanceof DriverError)) {
      const failure = withEffect(driverError('transaction client', error), 'none')
      guard.failed(failure)
      if (failure.sqlState === undefined) txLink.lost ??= failure
    }
    reject(error)
  }
  const checked = (sent: unknown): unknown => {
    try {
      refuse()
    } catch (error) {
      fail(error)
      return undefined
    }
    if (guard.begin()) tx.unsafe(GUARD.set).then(undefined, () => undefined)
    return handler(sent)
  }
  statement.reject = fail
  statement.handler = Object.assign(checked, handler)
  return pending
}

const guarded = (tx: Scoped, txLink: TxLink): DriverTransaction => ({
  client: (guard) => transactionClient(tx, txLink, guard),
  query: (query, params) => async () => {
    if (txLink.lost !== undefined) return E.left(txLink.lost)
    const result = await send(tx, query, params, txLink)
    if (E.isLeft(result) && result.left.sqlState === undefined) txLink.lost = result.left
    return result
  },
  savepoint: (body) => () => savepoint(tx, txLink, body),
})
