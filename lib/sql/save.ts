// How a save is done. First in one statement, which writes if it may: the session lives, and where there are
// updates the header is still at the revision that their values were computed from. When that is not so, in
// a transaction that looks before it writes: it locks the header, reads what changed, runs the updates again
// on that, and writes. So an update is never lost, and never waits for more than the saves before it.
import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { applyEdits, type Edits, type Entries, hasUpdates } from '../core/edits.js'
import { DriverError, SessionGone, type StoreError, withEffect } from '../core/errors.js'
import { hasUnloadedUpdates, keysAfter, type PartialSnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import { LIFETIME, ownLifetimeOf, PRINCIPAL } from '../core/well-known-keys.js'
import type { Database, Param, Query, Queryable } from '../db/database.js'
import type { Change, Lifetime, Saved, SavedSnapshot, SessionStore } from '../store/contract.js'
import { RECENT_SAVES, TOMBSTONE_REVISIONS } from './fragments.js'
import { changesRow, editsParam, keysParams, lockedRow, snapshotAfter, texts, writtenRow } from './rows.js'
import type { SessionStatements } from './session-statements.js'

export interface Saving {
  readonly database: Database
  /** Changes that were sent before, and may have been stored: no answer said that they were not. */
  readonly ambiguous: WeakSet<Change>
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
  readonly refresh: SessionStore['refresh']
}

type Outcome<L = never> = TE.TaskEither<L | DriverError, SavedSnapshot>

export const saveOver = (saving: Saving): SessionStore['save'] => {
  const { ambiguous } = saving
  return (id, change) =>
    pipe(
      // An update of what is not known has no value yet.
      hasUnloadedUpdates(change.since, change.edits)
        ? TE.right(O.none)
        : write(saving, saving.database, id, change, hasUpdates(change.edits)),
      TE.chainW(
        O.match(
          (): ReturnType<SessionStore['save']> =>
            saving.database.transaction((tx) => lockAndReapply(saving, tx, id, change)),
          (written) => looked(merged(saving.refresh, id, change, change.save, written)),
        ),
      ),
      TE.mapLeft((error) => {
        if (mayBeDone(error)) ambiguous.add(change)
        return error
      }),
    )
}

/** Whether a save that failed so may have been stored all the same. */
export const mayBeDone = (error: unknown): boolean =>
  error instanceof DriverError && error.effect === 'unknown'

/** A failure to look at what was stored leaves the save done. */
const looked = <A>(looking: TE.TaskEither<StoreError, A>): TE.TaskEither<StoreError, A> =>
  pipe(
    looking,
    TE.mapLeft((error) => (error instanceof DriverError ? withEffect(error, 'unknown') : error)),
  )

export interface Written {
  readonly revision: number
  readonly expiration: number
  readonly seen: number
  readonly since: number
  readonly changes: string | null
}

const write = (
  { sql, lifetime }: Saving,
  database: Queryable,
  id: SessionId,
  { edits, entries, save, since }: Change,
  onlyAtRevision: boolean,
): TE.TaskEither<DriverError, O.Option<Written>> => {
  const { revision, versionTag, keys } = since
  const params = [id, editsParam(edits, entries), lifetime.idleMs, save, revision, versionTag, onlyAtRevision]
  const known = keys === undefined ? [] : [texts([...keys])]
  const [plain, cleanTombstones] =
    keys === undefined ? [sql.save, sql.saveTidy] : [sql.saveKeys, sql.saveKeysTidy]
  return pipe(
    leavesTombstones(edits, revision)
      ? database.query(cleanTombstones, [...params, ...known, ...begunBy(lifetime, edits, entries)])
      : database.query(plain, [...params, ...known]),
    TE.chainEitherK(flow(A.head, O.traverse(E.Applicative)(writtenRow(sql.save)))),
  )
}

/** Whether the save gives the session another lifetime, its own idle time, and its absolute time. */
const begunBy = (lifetime: Lifetime, edits: Edits, entries: Entries): readonly Param[] => {
  const own = ownLifetimeOf(entries)
  return [edits.has(LIFETIME), own?.idleMs ?? null, (own ?? lifetime).absoluteMs]
}

/**
 * Whether it says whose the session is or how long it lives, or may come to a revision at which deleted keys are swept: from the one that is
 * known, others may have saved as often as a header remembers.
 */
const leavesTombstones = (edits: Edits, revision: number): boolean =>
  edits.has(PRINCIPAL) ||
  edits.has(LIFETIME) ||
  revision % TOMBSTONE_REVISIONS >= TOMBSTONE_REVISIONS - RECENT_SAVES

type Made = Pick<Change, 'edits' | 'entries' | 'since'>

/** The session after a save in one statement, whose mark is `mark`: of what was known, and what was written. */
const written = (
  { edits, entries, since }: Made,
  versionTag: IdempotencyKey,
  { revision, expiration }: Written,
): Snapshot => ({
  revision,
  expiration,
  touchDue: false,
  versionTag,
  entries,
  keys: keysAfter(since, edits),
})

/** The same, if no save is in it that it waited for, and whose rows it thus did not see. */
export const mergedAtOnce = (made: Made, versionTag: IdempotencyKey, row: Written): Snapshot | undefined => {
  const { edits, since } = made
  if (row.since !== since.revision || row.seen !== row.revision - 1) return undefined
  const mine = written(made, versionTag, row)
  return row.changes === null
    ? mine
    : { ...mine, entries: applyEdits(edits, snapshotAfter(since, since.keys, row).entries) }
}

/** The same, looked at anew where that is needed. Should it be destroyed by now, it was saved before. */
export const merged = (
  refresh: SessionStore['refresh'],
  id: SessionId,
  made: Made,
  versionTag: IdempotencyKey,
  row: Written,
): TE.TaskEither<StoreError, Snapshot> => {
  const concurrency = mergedAtOnce(made, versionTag, row)
  return concurrency === undefined
    ? pipe(
        refresh(id, made.since, keysAfter(made.since, made.edits)),
        TE.map(O.getOrElse(() => written(made, versionTag, row))),
      )
    : TE.right(concurrency)
}

const lockAndReapply = (saving: Saving, tx: Queryable, id: SessionId, change: Change): Outcome<SessionGone> =>
  pipe(
    tx.query(lockOf(saving), [id, change.save, change.since.revision, change.since.versionTag]),
    TE.chainEitherKW(
      flow(
        A.head,
        E.fromOption(() => new SessionGone(id)),
        E.chainW(lockedRow(saving.sql.lock)),
      ),
    ),
    TE.filterOrElseW(
      ({ revision, done }) =>
        done || !saving.ambiguous.has(change) || revision - change.since.revision < RECENT_SAVES,
      () => forgotten(saving),
    ),
    TE.bindTo('locked'),
    TE.bindW('present', ({ locked }) => presentOf(saving, tx, id, change, locked.since)),
    TE.chainW(({ locked, present }) =>
      locked.done
        ? TE.right({ ...snapshotOf(change, locked), ...present })
        : writeLocked(saving, tx, id, change, { ...snapshotOf(change, locked), ...present }),
    ),
  )

/** In a transaction of the program's the timeouts are the program's, too. */
const lockOf = ({ sql, database }: Saving): Query =>
  database.transactionScope === undefined ? sql.lockInTime : sql.lock

const forgotten = ({ sql }: Saving): DriverError =>
  new DriverError(
    `${sql.save.name}: its first try was not answered, and so many others came since that it cannot be told ` +
      'whether that one was done',
    { retryable: false },
  )

// Its mark is the one of what is written next, or was written once: nobody asks what changed since this one.
const snapshotOf = (
  { save }: Change,
  { revision, expiration }: Saved,
): Omit<Snapshot, keyof PartialSnapshot> => ({
  revision,
  expiration,
  touchDue: false,
  versionTag: save,
})

/** The entries as they are now: all, or those of what was known and of the edits. Read is what changed after `since`. */
const presentOf = (
  { sql }: Saving,
  tx: Queryable,
  id: SessionId,
  { since: known, edits }: Change,
  since: number,
): TE.TaskEither<DriverError, PartialSnapshot> => {
  const keys = keysAfter(known, edits)
  return pipe(
    keys === undefined
      ? tx.query(sql.changes, [id, since])
      : tx.query(sql.changesOfKeys, [id, since, ...keysParams(keys, known)]),
    TE.chainEitherK((rows) => changesRow(sql.changes)(rows[0] ?? {})),
    TE.map(({ changes }) => snapshotAfter(known, keys, { since, changes })),
  )
}

const writeLocked = (
  saving: Saving,
  tx: Queryable,
  id: SessionId,
  change: Change,
  since: Snapshot,
): Outcome<SessionGone> => {
  const entries = applyEdits(change.edits, since.entries)
  return pipe(
    write(saving, tx, id, { ...change, since, entries }, false),
    TE.chainW(TE.fromOption(() => new SessionGone(id))),
    TE.map((saved) => ({ ...snapshotOf(change, saved), entries, keys: since.keys, rounds: 2 })),
  )
}
