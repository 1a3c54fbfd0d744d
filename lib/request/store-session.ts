// Writes a session to its store. Only these functions decide which rows are written.

import { noEdits } from '../core/edits.js'
import { attempted, SaveConflict, SessionGone, type StoreError } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import {
  afterTouch,
  isBlank,
  keysAfter,
  makeSnapshot,
  pick,
  type Snapshot,
  storedSession,
} from '../core/session.js'
import { newIdempotencyKey } from '../core/token.js'
import { onceCommitted, type SavedSnapshot, type Session, type SessionStore } from '../store/contract.js'
import { isObserved, publish, publishFailure, publishing } from '../store/events.js'

type Stored = TE.TaskEither<StoreError | SessionGone | SaveConflict, Session>

/** Writes a row for each edit of a session. Without edits, writes the expiration if a touch is due. */
export const storeSession = (session: Session): Stored => storing(session) ?? TE.right(session)

/** Returns `undefined` if there is nothing to write. */
export const storing = (session: Session): Stored | undefined => {
  const { snapshot, edits } = session
  if (O.isNone(snapshot)) return isBlank(session) ? undefined : createSession(session)
  if (!edits.isEmpty()) return saveEdits(session, snapshot.value)
  return snapshot.value.touchDue ? touch(session, snapshot.value) : undefined
}

// Records whether a session that was built in this process was stored or destroyed. All values that are derived from
// the built session share this record, even a value from before the first save.
interface Birth {
  /** Whether a creation was sent at least once. */
  sent?: boolean
  fate?: 'created' | 'destroyed' | undefined
}

const birthOf = ({ token }: Session): Birth => token.origin

/** Prevents later saves from creating this session. */
export const endBirth = (session: Session): void => {
  if (O.isNone(session.snapshot)) settle(session, 'destroyed')
}

const settle = (session: Session, fate: 'created' | 'destroyed'): void => {
  const birth = birthOf(session)
  const before = birth.fate
  birth.fate = fate
  const undo = (): void => {
    birth.fate = before
  }
  onceCommitted(session.handle, () => undefined, undo)
}

/** Whether the store may have the session. If not, a destruction sends no statement. */
export const mayBeStored = (session: Session): boolean =>
  O.isSome(session.snapshot) || birthOf(session).sent === true

/** Stores a new session, even one without entries. */
export const createSession =
  (session: Session): Stored =>
  () =>
    publishing(
      'create',
      birthOf(session).fate === undefined ? createNow(session) : createdBefore(session),
      ({ id, store }, durationMs) =>
        onceCommitted(session.handle, () => publish('created', { id, entries: store.size, durationMs })),
    )()

const createNow = (session: Session): Stored =>
  pipe(
    TE.fromIO(() => {
      birthOf(session).sent = true
      return newIdempotencyKey()
    }),
    TE.chain((versionTag) =>
      pipe(
        session.handle.create(session.id, session.token.hash, versionTag, session.store),
        TE.map((saved) => makeSnapshot({ ...saved, touchDue: false, versionTag }, session.store, undefined)),
      ),
    ),
    // If the session was destroyed meanwhile, its fence causes the conflict, and the result is `SessionGone`.
    TE.orElseW((error) =>
      error instanceof SaveConflict && birthOf(session).fate === 'destroyed'
        ? createdBefore(session)
        : TE.left(error),
    ),
    TE.chainW((snapshot): Stored => {
      if (birthOf(session).fate !== undefined) return createdBefore(session)
      settle(session, 'created')
      return TE.right(stored(session, snapshot))
    }),
  )

const createdBefore = (session: Session): TE.TaskEither<StoreError | SessionGone | SaveConflict, never> =>
  pipe(
    birthOf(session).fate === 'destroyed'
      ? TE.right(false)
      : pipe(session.handle.load(session.id, session.token.hash), TE.map(E.isRight)),
    TE.chainW((isAlive) =>
      TE.left(isAlive ? new SaveConflict(session.id, 'create') : new SessionGone(session.id)),
    ),
  )

export const saveEdits =
  (session: Session, since: Snapshot, save: SessionStore['save'] = session.handle.save): Stored =>
  () => {
    const { edits, store: entries } = session
    const start = performance.now()
    const task = save(session.id, { save: newIdempotencyKey(), edits, since, entries })
    return attempted(task).then((saved) => {
      if (E.isLeft(saved)) {
        publishFailure('save', saved.left)
        return saved
      }
      if (isObserved('saved')) publishSaved(session, saved.right, performance.now() - start)
      return E.right(stored(session, pick(saved.right, keysAfter(since, edits))))
    })
  }

const publishSaved = ({ id, edits, handle }: Session, { rounds = 1 }: SavedSnapshot, durationMs: number) =>
  onceCommitted(handle, () => publish('saved', { id, edits: edits.size, rounds, durationMs }))

const touch = (session: Session, snapshot: Snapshot): Stored =>
  pipe(
    publishing('touch', session.handle.touch(session.id)),
    TE.map(({ expiration }) => stored(session, afterTouch(snapshot, expiration))),
  )

const stored = (session: Session, snapshot: Snapshot): Session =>
  storedSession(session.handle, session.token, snapshot, noEdits)
