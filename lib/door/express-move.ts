// Taking over the sessions of another store, one by one or all of them, while it is still at work. A session is
// made here once: one that was ended here meanwhile is not made again, since its id is kept for a while, and it
// is deleted there. What was taken over lives there no longer than here, so that what has expired here is not
// taken over again.

import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../base/errors.js'
import { type DriverError, EncodeError, SaveConflict } from '../base/errors.js'
import { saveSession } from '../current/verbs.js'
import type { OldSession, OldSessions } from '../port/old-sessions.js'
import type { Session, SessionStore } from '../port/session-store.js'
import { type Entries, noEntries } from '../session/edits.js'
import { newSession } from '../session/session.js'
import { tokenOfSid } from './express-sid.js'
import { entriesOf, withEdited } from './express-values.js'

/** A session of ours with these entries, not stored yet. Throws an `EncodeError`. */
export const sessionWith = (store: SessionStore, sid: string, entries: Entries): Session =>
  withEdited(newSession(store, tokenOfSid(sid)), noEntries, entries)

/** Takes one over; `present` when it was taken over before, or has ended here. */
export const takeOver = async (
  store: SessionStore,
  from: OldSessions,
  { sid, values }: OldSession,
): Promise<Session | 'present' | 'refused'> => {
  const made = E.tryCatch(
    () => sessionWith(store, sid, entriesOf(values)),
    (error) => error,
  )
  if (E.isLeft(made)) {
    if (made.left instanceof EncodeError) return 'refused'
    throw made.left
  }
  const saved = await saveSession(made.right)()
  if (E.isRight(saved)) {
    const shortened = await from.shorten(sid, store.lifetime.idleMs)()
    if (E.isLeft(shortened)) throw shortened.left
    return saved.right
  }
  if (saved.left instanceof SaveConflict) return 'present'
  throw saved.left
}

export interface MoveOptions {
  /** How many are read at once. Default: 200. */
  readonly batch?: number
  /** Ends it after the batch that is under way. */
  readonly signal?: AbortSignal
  /** Called after each batch, with what was done so far. */
  readonly onBatch?: (soFar: Moved) => void
}

/** What a move has done so far. */
export interface Moved {
  /** Sessions that were taken over. */
  readonly moved: number
  /** Sessions that were there already, or have ended here. */
  readonly present: number
  /** Sessions that cannot be stored (U+0000 in a text, say). They stay where they are. */
  readonly refused: number
  /** Whether it came to the end. */
  readonly finished: boolean
}

/**
 * Takes over all live sessions of another store while it is at work, in batches. They stay there too, so that
 * processes which still run on it sign nobody out. Doing it again takes over what has come since. A failure is
 * thrown (`DriverError`, `SchemaMismatch`); what was taken over until then stays.
 */
export const moveSessions = async (
  store: SessionStore,
  from: OldSessions,
  { batch = 200, signal, onBatch }: MoveOptions = {},
): Promise<Moved> => {
  let soFar: Moved = { moved: 0, present: 0, refused: 0, finished: false }
  for (let last = ''; signal?.aborted !== true; ) {
    const rows: readonly OldSession[] = await orThrow(from.after(last, batch))
    for (const row of rows) {
      const taken = await takeOver(store, from, row)
      const what = typeof taken === 'string' ? taken : 'moved'
      soFar = { ...soFar, [what]: soFar[what] + 1 }
    }
    soFar = { ...soFar, finished: rows.length < batch }
    onBatch?.(soFar)
    if (soFar.finished) break
    last = rows.at(-1)?.sid ?? ''
  }
  return soFar
}

/** A task's result, or its failure as a throw. */
export const orThrow = async <A>(task: TE.TaskEither<DriverError | StoreError, A>): Promise<A> => {
  const result = await task()
  if (E.isLeft(result)) throw result.left
  return result.right
}
