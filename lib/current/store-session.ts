// The one place where a session is written: what there is to write, and what the session is afterwards.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { isSessionError, type SaveConflict, type SessionGone } from '../base/errors.js'
import type { Session, StoreError } from '../port/session-store.js'
import { noEdits } from '../session/edits.js'
import { heldSession, isBlank, type Snapshot } from '../session/session.js'
import { freshSaveId } from '../session/token.js'

type Stored = TE.TaskEither<StoreError | SessionGone | SaveConflict, Session>

/** Writes the session if there is anything to write: a row for each edit, or the expiration when that is due. */
export const storeSession = (session: Session): Stored =>
  pipe(
    session.snapshot,
    O.match(
      () => (isBlank(session) ? TE.right(session) : create(session)),
      (snapshot) =>
        !session.edits.isEmpty()
          ? save(session, snapshot)
          : snapshot.due
            ? touch(session, snapshot)
            : TE.right(session),
    ),
  )

const create = (session: Session): Stored =>
  pipe(
    TE.fromIO(freshSaveId),
    TE.chain((saveId) => session.handle.create(session.id, session.token.hash, saveId, session.store)),
    TE.map(({ revision, expiration }) =>
      stored(session, { revision, expiration, due: false, entries: session.store }),
    ),
  )

const save = (session: Session, since: Snapshot): Stored =>
  pipe(
    TE.fromIO(freshSaveId),
    TE.chain((saveId) => {
      const { id, edits, store: entries } = session
      return tagged(session.handle.save(id, { save: saveId, edits, since, entries }))
    }),
    TE.map((snapshot) => stored(session, snapshot)),
  )

const touch = (session: Session, snapshot: Snapshot): Stored =>
  pipe(
    session.handle.touch(session.id),
    TE.map(({ expiration }) => stored(session, { ...snapshot, expiration, due: false })),
  )

const stored = (session: Session, snapshot: Snapshot): Session =>
  heldSession(session.handle, session.token, snapshot, noEdits)

/** One of our errors, thrown by a replayed update, is the save's `Left`; anything else stays a throw. */
const tagged =
  <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
  () =>
    task().catch((error: unknown) => {
      if (isSessionError(error)) return E.left(error as L)
      throw error
    })
