// The session store in memory: for specs, for trying things out, and for one process that may forget. It
// keeps the same contract as the databases, on the process's clock.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type Clock, systemClock } from '../base/clock.js'
import { SaveConflict, SessionGone } from '../base/errors.js'
import { type Lifetime, lifetimeOf } from '../port/lifetime.js'
import type { Saved, SessionStore } from '../port/session-store.js'
import { applyEdits, type Entries } from '../session/edits.js'
import type { Snapshot } from '../session/session.js'
import type { SecretHash, SessionId } from '../session/token.js'

export interface MemoryOptions extends Partial<Lifetime> {
  /** Gives the time in milliseconds since 1970. Default: the system's clock. */
  readonly clock?: Clock
}

/** A session's rows, immutable: every write puts another one in its place. */
interface Rows {
  readonly secret: SecretHash
  readonly previous?: { readonly secret: SecretHash; readonly until: number }
  readonly expiration: number
  readonly absoluteExpiration: number
  readonly revision: number
  readonly entries: Entries
}

/**
 * A session store in this process's memory; it is gone with the process.
 *
 * @example
 * ```ts
 * import { buildSession, saveSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionSet('theme', 'dark')(buildSession(memoryStore({ idleMs: 60_000 })))
 * console.log((await saveSession(session)())._tag) // Right
 * ```
 */
export const memoryStore = (options: MemoryOptions = {}): SessionStore => {
  const lifetime = lifetimeOf(options)
  const now = options.clock ?? systemClock
  const table = sessionTable(now)
  const moved = (rows: Rows): Rows => ({
    ...rows,
    expiration: Math.max(rows.expiration, Math.min(now() + lifetime.idleMs, rows.absoluteExpiration)),
  })
  const isDue = (rows: Rows): boolean =>
    rows.expiration < rows.absoluteExpiration &&
    now() + lifetime.idleMs - rows.expiration >= lifetime.idleMs * lifetime.touchFraction
  const snapshot = (rows: Rows): Snapshot => ({ ...pickSnapshot(rows), due: isDue(rows) })

  return {
    lifetime,
    prepare: TE.right(undefined),
    create: (id, secret, entries) =>
      step(() => table.insert(id, newRows(secret, entries, now(), lifetime))),
    load: (id, secret) =>
      step(() => E.right(pipe(table.find(id), O.filter(opens(secret, now())), O.map(snapshot)))),
    save: (id, edits) =>
      step(() =>
        table.update(id, (rows) => ({
          ...moved(rows),
          revision: rows.revision + 1,
          entries: applyEdits(edits, rows.entries),
        })),
      ),
    touch: (id) => step(() => table.update(id, moved)),
    refresh: (id) =>
      step(() => {
        table.update(id, (rows) => (isDue(rows) ? moved(rows) : rows))
        return E.right(pipe(table.find(id), O.map(snapshot)))
      }),
    rotate: (id, from, to) =>
      step(() => pipe(table.find(id), E.fromOption(() => new SessionGone(id)), E.chainW(rotated(id, from, to, now() + lifetime.rotationGraceMs)), E.map((rows) => table.put(id, rows)))),
    destroy: (id) => step(() => E.right(table.remove(id))),
  }
}

/** Each operation runs whole, when its task runs. */
const step =
  <L, A>(operation: () => E.Either<L, A>): TaskEither<L, A> =>
  () =>
    Promise.resolve(operation())

const pickSnapshot = ({ revision, expiration, entries }: Rows) => ({ revision, expiration, entries })

const pickSaved = ({ revision, expiration }: Rows): Saved => ({ revision, expiration })

const newRows = (secret: SecretHash, entries: Entries, now: number, lifetime: Lifetime): Rows => ({
  secret,
  expiration: now + Math.min(lifetime.idleMs, lifetime.absoluteMs),
  absoluteExpiration: now + lifetime.absoluteMs,
  revision: 1,
  entries,
})

const opens =
  (secret: SecretHash, now: number) =>
  (rows: Rows): boolean =>
    rows.secret === secret || (rows.previous?.secret === secret && rows.previous.until > now)

const rotated =
  (id: SessionId, from: SecretHash, to: SecretHash, until: number) =>
  (rows: Rows): E.Either<SaveConflict, Rows> =>
    rows.secret === from
      ? E.right({ ...rows, secret: to, previous: { secret: from, until } })
      : E.left(new SaveConflict(id, 'secret'))

/** The one mutable thing: which rows each id has. Expired rows are as good as gone, and swept now and then. */
const sessionTable = (now: Clock) => {
  const table = new Map<SessionId, Rows>()
  let sweepAt = 1024
  const isLive = (rows: Rows): boolean => rows.expiration > now()
  const sweep = (): void => {
    for (const [id, rows] of table) if (!isLive(rows)) table.delete(id)
    sweepAt = Math.max(1024, table.size * 2)
  }
  const find = (id: SessionId): O.Option<Rows> => pipe(O.fromNullable(table.get(id)), O.filter(isLive))
  const put = (id: SessionId, rows: Rows): void => void table.set(id, rows)
  return {
    find,
    put,
    insert: (id: SessionId, rows: Rows): E.Either<SaveConflict, Saved> => {
      if (table.has(id)) return E.left(new SaveConflict(id, 'create'))
      if (table.size >= sweepAt) sweep()
      put(id, rows)
      return E.right(pickSaved(rows))
    },
    update: (id: SessionId, change: (rows: Rows) => Rows): E.Either<SessionGone, Saved> =>
      pipe(
        find(id),
        E.fromOption(() => new SessionGone(id)),
        E.map(change),
        E.map((rows) => {
          put(id, rows)
          return pickSaved(rows)
        }),
      ),
    remove: (id: SessionId): void => void table.delete(id),
  }
}
