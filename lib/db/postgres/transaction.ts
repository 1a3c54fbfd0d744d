// Transactions through postgres.js, which by itself would go on with a transaction whose connection has gone.
// Savepoints are the library's own: it rolls a whole transaction back in which it saw any statement fail.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, type Effect, withEffect } from '../../core/errors.js'
import type { DriverTransaction } from '../database.js'
import { driverError, isLostConnection, withDeadline } from '../deadline.js'
import type { Scoped } from './pool.js'
import { type Link, send } from './statement.js'
import { notSent } from './unsent.js'
import { isAnothers, lost, noteFailure } from './workarounds.js'

type Body<L, A> = (tx: DriverTransaction) => TaskEither<L, A>

/** A transaction's connection; once it is `lost`, nothing more is sent in the transaction. */
interface TxLink extends Link {
  lost: DriverError | undefined
  /** Whether the connection has gone, and its place in the pool may serve another one. */
  gone: boolean
}

/** What came of a transaction's body. */
interface TxState<L, A> {
  result?: E.Either<L, A>
  thrown?: { readonly error: unknown }
}

/** How postgres.js runs something in a transaction, or in a savepoint. */
type Begin = (act: (tx: Scoped) => Promise<void>) => Promise<unknown>

export const transact = async <L, A>(body: Body<L, A>, link: Link): Promise<E.Either<L | DriverError, A>> => {
  // Once the body runs, none of its statements is a reason to begin again.
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

/**
 * The last resort, where a socket that is not ours (the program's own, or TLS around it) said just then that it is
 * full: postgres.js 3.4.9 does not reserve that connection, sends BEGIN all the same, and reports UNSAFE_TRANSACTION.
 * No body has run, so another attempt is safe; and a COMMIT for each free connection ends the transaction of nobody's
 * with all that was sent in it. (Where there is none it is a mere warning.)
 */
export const isBegun = async <L, A>(
  transact: () => Promise<E.Either<L | DriverError, A>>,
  link: Link,
): Promise<E.Either<L | DriverError, A>> => {
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

// postgres.js puts the text that it sent on the error, which is none for what it never came to send.
const isUnsentBegin = (error: unknown): boolean =>
  (error as { readonly query?: unknown } | undefined)?.query === undefined

const isUnsafeBegin = (error: unknown): boolean =>
  error instanceof DriverError &&
  (error.cause as { readonly code?: unknown } | undefined)?.code === 'UNSAFE_TRANSACTION'

// Whatever the role's default is: what looks before it writes must see what was committed before its lock.
const READ_COMMITTED = 'isolation level read committed'

const savepoint = async <L, A>(
  tx: Scoped,
  txLink: TxLink,
  body: Body<L, A>,
): Promise<E.Either<L | DriverError, A>> =>
  txLink.lost === undefined
    ? runWithin(txLink, { begin: (act) => tx.savepoint(act), first: 'savepoint', last: undefined }, body)
    : E.left(txLink.lost)

/** `first` and `last` name what is waited for; the end of a savepoint is not, once the connection is lost. */
interface Around {
  readonly begin: Begin
  readonly first: string
  readonly last: string | undefined
  /** How a transaction is begun. */
  readonly link?: Link
}

const runWithin = async <L, A>(
  txLink: TxLink,
  { begin, first, last, link }: Around,
  body: Body<L, A>,
): Promise<E.Either<L | DriverError, A>> => {
  const course: TxState<L, A> = {}
  let started = (): void => undefined
  let ended = (): void => undefined
  const start = new Promise<void>((resolve) => (started = resolve))
  const end = new Promise<void>((resolve) => (ended = resolve))
  const late = lateReporter(txLink)
  const run = begin(async (tx) => {
    started()
    if (txLink.lost === undefined) await runBody(course, body(guarded(tx, txLink)))
    ended()
    return finish(course, txLink)
  })
  run.catch(() => undefined)
  const opening = () => Promise.race([start, run])
  const opened = await withDeadline(first, txLink.timeoutMs, opening, late, link?.spentMs)
  if (E.isLeft(opened)) return unopened(txLink, opened.left, link)
  await end
  if (last === undefined && txLink.lost !== undefined) return outcome(course, undone(E.left(txLink.lost)))
  const isUndone = last === undefined || txLink.lost !== undefined
  const done = await withDeadline(last ?? 'release', txLink.timeoutMs, () => run, late)
  return outcome(course, isUndone ? undone(done) : done)
}

/** Tells the pool that something which was sent now was not answered in time. */
const lateReporter = (txLink: TxLink): (() => Effect) => {
  const sentAt = performance.now()
  return () => {
    txLink.late(sentAt)
    return 'unknown'
  }
}

/** What fails before the commit was sent has done nothing: the server rolls it back. */
const undone = <A>(result: E.Either<DriverError, A>): E.Either<DriverError, A> =>
  pipe(
    result,
    E.mapLeft((error) => withEffect(error, 'none')),
  )

/** Nothing was done. Where its time was up it does not matter whether BEGIN was sent: nothing is done after it. */
const unopened = (txLink: TxLink, error: DriverError, link: Link | undefined): E.Left<DriverError> => {
  txLink.lost ??= error
  const failure = withEffect(error, 'none')
  if (error.cause === undefined) link?.unsent?.(failure)
  return E.left(failure) as E.Left<DriverError>
}

const runBody = async <L, A>(course: TxState<L, A>, body: TaskEither<L, A>): Promise<void> => {
  try {
    course.result = await body()
  } catch (error) {
    course.thrown = { error }
  }
}

// postgres.js sends the rollback or commit on the connection's slot, which by then may serve somebody
// else's transaction: so once the connection has gone, the callback must not return at all.
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

const guarded = (tx: Scoped, txLink: TxLink): DriverTransaction => ({
  query: (query, params) => async () => {
    if (txLink.lost !== undefined) return E.left(txLink.lost)
    const result = await send(tx, query, params, txLink)
    if (E.isLeft(result) && result.left.sqlState === undefined) txLink.lost = result.left
    return result
  },
  savepoint: (body) => () => savepoint(tx, txLink, body),
})
