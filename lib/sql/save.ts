// How a save is done. First in one statement, which writes if it may: the session lives, and where there are
// updates the header is still at the revision that their values were computed from. When that is not so, in
// a transaction that looks before it writes: it locks the header, reads what changed, runs the updates again
// on that, and writes. So an update is never lost, and never waits for more than the saves before it.

import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, SessionGone } from '../base/errors.js'
import type { Database, Queryable } from '../port/database.js'
import type { Change, SavedSnapshot, SessionStore } from '../port/session-store.js'
import { applyEdits, type Entries, hasUpdates, noEntries } from '../session/edits.js'
import type { Snapshot } from '../session/session.js'
import type { SessionId } from '../session/token.js'
import { changesRow, editsParam, lockedRow, withChanges, writtenRow } from './rows.js'
import { GRAVE_REVISIONS, REMEMBERED_SAVES, type SessionStatements } from './statements.js'

export interface Saving {
  readonly database: Database
  readonly sql: SessionStatements
  readonly idleMs: number
  readonly refresh: SessionStore['refresh']
}

type Saved<L = never> = TE.TaskEither<L | DriverError, SavedSnapshot>

export const saveOver = (saving: Saving): SessionStore['save'] => {
  const tried = new WeakSet<Change>()
  return (id, change) => {
    const again = tried.has(change)
    tried.add(change)
    return pipe(
      write(saving, saving.database, id, change, hasUpdates(change.edits)),
      TE.chainW(
        O.match(
          () => saving.database.transaction((tx) => lookAndWrite(saving, tx, id, change, again)),
          (written) => merged(saving, id, change, written),
        ),
      ),
    )
  }
}

interface Written {
  readonly revision: number
  readonly expiration: number
  readonly seen: number
  readonly changes: string | null
}

const write = (
  { sql, idleMs }: Saving,
  database: Queryable,
  id: SessionId,
  { edits, entries, save, since }: Change,
  onlyAtRevision: boolean,
): TE.TaskEither<DriverError, O.Option<Written>> =>
  pipe(
    database.query(sql.save, [id, editsParam(edits, entries), idleMs, save, since.revision, onlyAtRevision]),
    TE.chainEitherK(flow(A.head, O.traverse(E.Applicative)(writtenRow(sql.save)))),
  )

/** The session as it is after a save in one statement. */
const merged = (
  { refresh }: Saving,
  id: SessionId,
  { edits, entries, since }: Change,
  { revision, expiration, seen, changes }: Written,
): ReturnType<SessionStore['save']> => {
  const mine: Snapshot = { revision, expiration, due: false, entries }
  if (revision === since.revision + 1) return TE.right(mine)
  if (seen === revision - 1 && !isFar(since, revision))
    return TE.right({ ...mine, entries: applyEdits(edits, withChanges(since.entries, changes)) })
  // It waited for other saves, whose rows it did not see. Should it be destroyed by now, it was saved before.
  return pipe(refresh(id, since), TE.map(O.getOrElse(() => mine)))
}

/** Whether graves may have been swept since, so that a change can be missed by asking for what changed. */
const isFar = (since: Snapshot, revision: number): boolean => revision - since.revision >= GRAVE_REVISIONS

const lookAndWrite = (
  saving: Saving,
  tx: Queryable,
  id: SessionId,
  change: Change,
  again: boolean,
): Saved<SessionGone> =>
  pipe(
    tx.query(saving.sql.lock, [id, change.save]),
    TE.chainEitherKW(
      flow(
        A.head,
        E.fromOption(() => new SessionGone(id)),
        E.chainW(lockedRow(saving.sql.lock)),
      ),
    ),
    TE.filterOrElseW(
      ({ revision, done }) => done || !again || revision - change.since.revision < REMEMBERED_SAVES,
      () => forgotten(saving),
    ),
    TE.bindTo('locked'),
    TE.bindW('present', ({ locked }) => presentEntries(saving, tx, id, change.since, locked.revision)),
    TE.chainW(({ locked, present }) =>
      locked.done
        ? TE.right({ revision: locked.revision, expiration: locked.expiration, due: false, entries: present })
        : writeLocked(saving, tx, id, change, { ...locked, due: false, entries: present }),
    ),
  )

const forgotten = ({ sql }: Saving): DriverError =>
  new DriverError(
    `${sql.save.name}: its first try was not answered, and so many others came since that it cannot be told ` +
      'whether that one was done',
    { retryable: false },
  )

/** All entries as they are now, of which only those that changed are read. */
const presentEntries = (
  { sql }: Saving,
  tx: Queryable,
  id: SessionId,
  since: Snapshot,
  revision: number,
): TE.TaskEither<DriverError, Entries> => {
  const known = isFar(since, revision) ? { revision: 0, entries: noEntries } : since
  return pipe(
    tx.query(sql.changes, [id, known.revision]),
    TE.chainEitherK((rows) => changesRow(sql.changes)(rows[0] ?? {})),
    TE.map(({ changes }) => withChanges(known.entries, changes)),
  )
}

const writeLocked = (
  saving: Saving,
  tx: Queryable,
  id: SessionId,
  change: Change,
  since: Snapshot,
): Saved<SessionGone> => {
  const entries = applyEdits(change.edits, since.entries)
  return pipe(
    write(saving, tx, id, { ...change, since, entries }, false),
    TE.chainW(TE.fromOption(() => new SessionGone(id))),
    TE.map(({ revision, expiration }) => ({ revision, expiration, due: false, entries, rounds: 2 })),
  )
}
