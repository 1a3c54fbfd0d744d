// The one place where a session is written: what there is to write, and what the session is afterwards.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { noEdits } from '../core/edits.js'
import { attempted, SaveConflict, SessionGone, type StoreError } from '../core/errors.js'
import { shared } from '../core/process.js'
import { isBlank, keysAfter, pick, type Snapshot, storedSession } from '../core/session.js'
import { newIdempotencyKey } from '../core/token.js'
import type { SavedSnapshot, Session } from '../store/contract.js'
import { publish, publishing, publishOutcome } from '../store/events.js'
import { onceCommitted } from '../store/in-transaction.js'

type Stored = TE.TaskEither<StoreError | SessionGone | SaveConflict, Session>

/** Writes the session if there is anything to write: a row for each edit, or the expiration when that is due. */
export const storeSession = (session: Session): Stored =>
  O.isNone(session.snapshot)
    ? isBlank(session)
      ? TE.right(session)
      : create(session)
    : storeEdits(session, session.snapshot.value)

const storeEdits = (session: Session, snapshot: Snapshot): Stored => {
  if (!session.edits.isEmpty()) return save(session, snapshot)
  return snapshot.touchDue ? touch(session, snapshot) : TE.right(session)
}

// A session that was never loaded knows nothing of its rows. But it cannot have left this process, so here
// it is known whether a save has created it, or it was destroyed: it is not created again.
const born = shared('born:1', () => new WeakMap<object, 'created' | 'destroyed'>())

/** From now on no save creates this session any more. */
export const endBirth = (session: Session): void => {
  if (O.isNone(session.snapshot)) settle(session, 'destroyed')
}

/** Notes what became of it; a rollback makes that as it was. */
const settle = (session: Session, fate: 'created' | 'destroyed'): void => {
  const { origin } = session.token
  const before = born.get(origin)
  born.set(origin, fate)
  const forget = (): void => {
    if (before === undefined) born.delete(origin)
    else born.set(origin, before)
  }
  onceCommitted(session.handle, () => undefined, forget)
}

/** Sessions whose creation was sent at least once. */
const sent = shared('sent:1', () => new WeakSet())

/** Whether a store may hold it: one that never left this process needs no destruction. */
export const mayBeStored = (session: Session): boolean =>
  O.isSome(session.snapshot) || sent.has(session.token.origin)

const create =
  (session: Session): Stored =>
  () =>
    publishing(
      'create',
      born.has(session.token.origin) ? notAgain(session) : createNow(session),
      ({ id, store }, durationMs) =>
        onceCommitted(session.handle, () => publish('created', { id, entries: store.size, durationMs })),
    )()

const createNow = (session: Session): Stored =>
  pipe(
    TE.fromIO(() => {
      sent.add(session.token.origin)
      return newIdempotencyKey()
    }),
    TE.chain((versionTag) =>
      pipe(
        session.handle.create(session.id, session.token.hash, versionTag, session.store),
        TE.map((saved) => ({ ...saved, versionTag })),
      ),
    ),
    TE.chainW(({ revision, expiration, versionTag }): Stored => {
      // Destroyed while it was being created: that is the later one of the two.
      if (born.has(session.token.origin)) return notAgain(session)
      settle(session, 'created')
      return TE.right(
        stored(session, { revision, expiration, touchDue: false, versionTag, entries: session.store }),
      )
    }),
  )

const notAgain = (session: Session): Stored =>
  pipe(
    born.get(session.token.origin) === 'destroyed'
      ? pipe(
          session.handle.destroy(session.id),
          TE.map(() => false),
        )
      : pipe(session.handle.load(session.id, session.token.hash), TE.map(E.isRight)),
    TE.chainW((isAlive) =>
      TE.left(isAlive ? new SaveConflict(session.id, 'create') : new SessionGone(session.id)),
    ),
  )

const save =
  (session: Session, since: Snapshot): Stored =>
  async () => {
    const { edits, store: entries, handle } = session
    const start = performance.now()
    const saved = await attempted(
      handle.save(session.id, { save: newIdempotencyKey(), edits, since, entries }),
    )
    publishOutcome('save', start, saved, publishSaved(session))
    return E.isLeft(saved) ? saved : E.right(stored(session, pick(saved.right, keysAfter(since, edits))))
  }

const publishSaved =
  ({ id, edits, handle }: Session) =>
  ({ rounds = 1 }: SavedSnapshot, durationMs: number): void =>
    onceCommitted(handle, () => publish('saved', { id, edits: edits.size, rounds, durationMs }))

const touch = (session: Session, snapshot: Snapshot): Stored =>
  pipe(
    publishing('touch', session.handle.touch(session.id)),
    TE.map(({ expiration }) => stored(session, { ...snapshot, expiration, touchDue: false })),
  )

const stored = (session: Session, snapshot: Snapshot): Session =>
  storedSession(session.handle, session.token, snapshot, noEdits)
