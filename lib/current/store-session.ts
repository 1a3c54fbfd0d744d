// The one place where a session is written: what there is to write, and what the session is afterwards.
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { SaveConflict, SessionGone } from '../base/errors.js'
import type { Saved, Session, StoreError } from '../port/session-store.js'
import { noEdits } from '../session/edits.js'
import { heldSession, isBlank, type Snapshot } from '../session/session.js'

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
    session.handle.create(session.id, session.token.hash, session.store),
    TE.map((saved) => stored(session, saved, saved.revision)),
  )

// When another request saved in between, its rows are not in our values: what is known to be whole is
// still the revision that was read.
const save = (session: Session, { revision }: Snapshot): Stored =>
  pipe(
    session.handle.save(session.id, session.edits),
    TE.map((saved) => stored(session, saved, saved.revision === revision + 1 ? saved.revision : revision)),
  )

const touch = (session: Session, { revision }: Snapshot): Stored =>
  pipe(
    session.handle.touch(session.id),
    TE.map((saved) => stored(session, saved, revision)),
  )

const stored = (session: Session, { expiration }: Saved, revision: number): Session =>
  heldSession(
    session.handle,
    session.token,
    { revision, expiration, due: false, entries: session.store },
    noEdits,
  )
