// Saves a session. First an optimistic statement tries to write. It writes only if the session is live. For updates,
// the header must also have the revision from which the new values were computed. If this statement writes nothing, a
// transaction locks the header, reads the changes, applies the updates again, and writes. So no update is lost.

import { applyEdits, type Edits, type Entries, hasUpdates } from '../core/edits.js'
import { DriverError, type SaveConflict, SessionGone, type StoreError, withEffect } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { hasUnloadedUpdates, keysAfter, makeSnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import { LIFETIME, ownLifetimeOf, PRINCIPAL } from '../core/well-known-keys.js'
import type { Database, Param, Query, Queryable } from '../db/database.js'
import type { Attempt } from '../db/deadline.js'
import type { Change, Lifetime, SavedSnapshot, SessionStore } from '../store/contract.js'
import { RECENT_SAVES, TOMBSTONE_REVISIONS } from './fragments.js'
import {
  ChangesRow,
  editsParam,
  entriesAfter,
  keysParams,
  LockedRow,
  optionalRowAs,
  rowAs,
  rowsAs,
  texts,
  WrittenRow,
} from './rows.js'
import type { SessionStatements } from './session-statements.js'

export interface Saving {
  readonly database: Database
  readonly sql: SessionStatements
  readonly lifetime: Lifetime
  readonly refresh: SessionStore['refresh']
}

type Outcome<L = never> = TE.TaskEither<L | DriverError, SavedSnapshot>

type SaveError = StoreError | SessionGone | SaveConflict

export const saveOver =
  (saving: Saving) =>
  (id: SessionId, change: Change): Attempt<SaveError, SavedSnapshot> =>
  (mayBeDone) =>
    save(saving, id, mayBeDone ? { ...change, mayBeDone } : change)

const save = (saving: Saving, id: SessionId, change: Change): Promise<E.Either<SaveError, SavedSnapshot>> => {
  const { database, refresh } = saving
  const underLock = () => database.transaction((tx) => lockAndReapply(saving, tx, id, change))()
  // For the update of an unloaded key, the value must first be read under the lock.
  if (hasUnloadedUpdates(change.since, change.edits)) return underLock()
  return write(saving, database, id, change, hasUpdates(change.edits))().then(
    (rows): E.Either<SaveError, SavedSnapshot> | Promise<E.Either<SaveError, SavedSnapshot>> => {
      if (E.isLeft(rows)) return rows
      const [row] = rows.right
      if (row === undefined) return underLock()
      const saved = mergedWithoutRead(change, change.save, row)
      return saved === undefined
        ? afterWrite(merged(refresh, id, change, change.save, row))()
        : E.right(saved)
    },
  )
}

/** If the read after a write fails, the save may be done, so the effect is `unknown`. */
const afterWrite = <A>(reading: TE.TaskEither<StoreError, A>): TE.TaskEither<StoreError, A> =>
  pipe(
    reading,
    TE.mapLeft((error) => (error instanceof DriverError ? withEffect(error, 'unknown') : error)),
  )

const write = (
  { sql, lifetime }: Saving,
  database: Queryable,
  id: SessionId,
  { edits, entries, save, since }: Change,
  onlyAtRevision: boolean,
): TE.TaskEither<DriverError, readonly WrittenRow[]> => {
  const { revision, versionTag, keys } = since
  const params = [id, editsParam(edits, entries), lifetime.idleMs, save, revision, versionTag, onlyAtRevision]
  const loaded = keys === undefined ? [] : [texts([...keys])]
  const [plain, full] = keys === undefined ? [sql.save, sql.saveFull] : [sql.saveKeys, sql.saveKeysFull]
  return needsFullSave(edits, revision)
    ? readWritten(database, full, [...params, ...loaded, ...lifetimeParams(lifetime, edits, entries)])
    : readWritten(database, plain, [...params, ...loaded])
}

const readWritten = rowsAs(WrittenRow)

/** Returns three parameters: whether the session gets a new lifetime, its own idle time, and its absolute time. */
const lifetimeParams = (lifetime: Lifetime, edits: Edits, entries: Entries): readonly Param[] => {
  const own = ownLifetimeOf(entries)
  return [edits.has(LIFETIME), own?.idleMs ?? null, (own ?? lifetime).absoluteMs]
}

// Whether the save writes the principal or the lifetime, or may reach a revision at which tombstones are deleted. Other
// requests may have saved meanwhile, so the new revision is up to `RECENT_SAVES` higher than `revision`.
const needsFullSave = (edits: Edits, revision: number): boolean =>
  edits.has(PRINCIPAL) ||
  edits.has(LIFETIME) ||
  revision % TOMBSTONE_REVISIONS >= TOMBSTONE_REVISIONS - RECENT_SAVES

type Made = Pick<Change, 'edits' | 'entries' | 'since'>

/** Returns the snapshot after a save in one statement, without the changes of other requests. */
const written = (
  { edits, entries, since }: Made,
  versionTag: IdempotencyKey,
  { revision, expiration }: WrittenRow,
): Snapshot =>
  makeSnapshot({ revision, expiration, touchDue: false, versionTag }, entries, keysAfter(since, edits))

// Returns the snapshot after a save, with the changes of other requests. If the row may lack some of these changes, the
// result is `undefined`, and the caller reads the session again.
export const mergedWithoutRead = (
  made: Made,
  versionTag: IdempotencyKey,
  row: WrittenRow,
): Snapshot | undefined => {
  const { edits, since } = made
  if (row.since !== since.revision || row.seen !== row.revision - 1) return undefined
  return row.changes === null
    ? written(made, versionTag, row)
    : written(
        { edits, since, entries: applyEdits(edits, entriesAfter(since, since.keys, row)) },
        versionTag,
        row,
      )
}

// Reads the session again after a save. If the session has ended before this read, the snapshot lacks the changes of
// other requests.
export const merged = (
  refresh: SessionStore['refresh'],
  id: SessionId,
  made: Made,
  versionTag: IdempotencyKey,
  row: WrittenRow,
): TE.TaskEither<StoreError, Snapshot> =>
  pipe(
    refresh(id, made.since, keysAfter(made.since, made.edits)),
    TE.map(O.getOrElse(() => written(made, versionTag, row))),
  )

const lockAndReapply = (
  saving: Saving,
  tx: Queryable,
  id: SessionId,
  change: Change,
): Outcome<SessionGone> => {
  const { save, since, mayBeDone = false } = change
  return pipe(
    optionalRowAs(LockedRow)(tx, lockOf(saving), [id, save, since.revision, since.versionTag]),
    TE.chainW(TE.fromOption(() => new SessionGone(id))),
    TE.filterOrElseW(
      ({ revision, done }) => done || !mayBeDone || revision - since.revision < RECENT_SAVES,
      () => undecidable(saving),
    ),
    TE.bindTo('locked'),
    TE.bindW('present', ({ locked }) => presentOf(saving, tx, id, change, locked)),
    TE.chainW(({ locked, present: snapshot }) => {
      return locked.done ? TE.right(snapshot) : writeLocked(saving, tx, id, change, snapshot)
    }),
  )
}

const lockOf = ({ sql, database }: Saving): Query =>
  database.transactionScope === undefined ? sql.lock : sql.lockInTransaction

const undecidable = ({ sql }: Saving): DriverError =>
  new DriverError(
    `${sql.save.name}: its first attempt got no answer, and since then too many saves were made: ` +
      'it is unknown whether that attempt was stored',
    { retryable: false },
  )

/** Returns the locked session with all entries, or with the loaded and edited ones. Reads only the newer entries. */
const presentOf = (
  { sql }: Saving,
  tx: Queryable,
  id: SessionId,
  { since: known, edits, save }: Change,
  { revision, expiration, since }: LockedRow,
): TE.TaskEither<DriverError, Snapshot> => {
  const keys = keysAfter(known, edits)
  // The version tag is the idempotency key of this save, so it is valid only after the write. No read uses it earlier.
  const header = { revision, expiration, touchDue: false, versionTag: save }
  return pipe(
    keys === undefined
      ? rowAs(ChangesRow)(tx, sql.changes, [id, since])
      : rowAs(ChangesRow)(tx, sql.changesOfKeys, [id, since, ...keysParams(keys, known)]),
    TE.map(({ changes }) => makeSnapshot(header, entriesAfter(known, keys, { since, changes }), keys)),
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
    TE.chainW(([row]) => (row === undefined ? TE.left(new SessionGone(id)) : TE.right(row))),
    TE.map(({ revision, expiration }) => {
      const header = { revision, expiration, touchDue: false, versionTag: change.save }
      return { ...makeSnapshot(header, entries, since.keys), rounds: 2 }
    }),
  )
}
