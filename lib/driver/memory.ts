// The session store in memory: for specs, for trying things out, and for one process that may forget. It
// keeps the same contract as the databases, on the process's clock.
import * as E from 'fp-ts/lib/Either.js'
import { constVoid, flow } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type Clock, systemClock } from '../base/clock.js'
import { SaveConflict } from '../base/errors.js'
import { randomSecret } from '../base/random.js'
import { type Lifetime, lifetimeOf } from '../port/lifetime.js'
import type { Change, Listed, Saved, SessionStore } from '../port/session-store.js'
import { applyEdits, type Entries } from '../session/edits.js'
import { knownIds } from '../session/ids.js'
import { LIFETIME, type OwnLifetime, ownLifetimeOf } from '../session/own-lifetime.js'
import type { Snapshot } from '../session/session.js'
import type { SaveId, SecretHash, SessionId } from '../session/token.js'
import { isDone, MemoryTable, type Rows } from './memory-table.js'

export interface MemoryOptions extends Partial<Lifetime> {
  /** Gives the time in milliseconds since 1970. Default: the system's clock. */
  readonly clock?: Clock
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
  const [table, ids] = [new MemoryTable(now), knownIds()]
  ids.learn(randomSecret(), 0)
  const { moved, touched, relived, snapshot } = expiry(lifetime, now)
  const saved = (change: Change) => (rows: Rows) =>
    isDone(rows, change.save) ? rows : { ...relived(moved(rows), change), ...edited(rows, change) }
  return {
    lifetime,
    ids,
    prepare: TE.right(undefined),
    create: (id, secret, save, entries) =>
      step(() => E.map(pickSaved)(table.insert(id, newRows(secret, save, entries, now(), lifetime)))),
    load: (id, secret) => step(() => E.right(E.map(snapshot)(table.open(id, opens(secret, now()))))),
    save: (id, change) => step(() => E.map(snapshot)(table.update(id, flow(saved(change), E.right)))),
    touch: (id) => step(() => E.map(pickSaved)(table.update(id, flow(moved, E.right)))),
    refresh: (id) =>
      step(() => E.right(O.map(snapshot)(O.fromEither(table.update(id, flow(touched, E.right)))))),
    rotate: (id, from, to) =>
      step(() => E.map(constVoid)(table.update(id, rotated(id, from, to, now() + lifetime.rotationGraceMs)))),
    destroy: (id) => step(() => E.map(constVoid)(E.right(table.remove(id)))),
    ...listing(table),
  }
}

const listing = (table: MemoryTable): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'collect'> => ({
  sessionsOf: (principal) => step(() => E.right(table.whose(principal).map(listed).reverse())),
  endAll: (principal, { except, only }) =>
    step(() => {
      const ids = table.whose(principal).map(([id]) => id)
      return E.right(ids.filter((id) => id !== except && (only ?? id) === id && table.remove(id)))
    }),
  collect: (limit) =>
    step(() => {
      const sessions = table.sweep(limit)
      return E.right({ sessions, more: sessions === limit, busy: false })
    }),
})

const edited = (rows: Rows, { edits, save }: Change): Pick<Rows, 'revision' | 'entries' | 'recent'> => ({
  revision: rows.revision + 1,
  entries: applyEdits(edits, rows.entries),
  recent: [save, ...rows.recent.slice(0, 63)],
})

const expiry = (lifetime: Lifetime, now: Clock) => {
  const idleOf = ({ entries }: Rows): number => (ownLifetimeOf(entries) ?? lifetime).idleMs
  const isDue = (rows: Rows): boolean =>
    rows.expiration < rows.absoluteExpiration &&
    now() + idleOf(rows) - rows.expiration >= idleOf(rows) * lifetime.touchFraction
  const moved = (rows: Rows): Rows => ({
    ...rows,
    expiration: Math.max(rows.expiration, Math.min(now() + idleOf(rows), rows.absoluteExpiration)),
  })
  const relived = (rows: Rows, { edits, entries }: Change): Rows =>
    edits.has(LIFETIME) ? { ...rows, ...begun(ownLifetimeOf(entries) ?? lifetime, now()) } : rows
  const touched = (rows: Rows): Rows => (isDue(rows) ? moved(rows) : rows)
  const snapshot = (rows: Rows): Snapshot => {
    const { revision, expiration, entries, recent } = rows
    return { revision, expiration, due: isDue(rows), mark: recent[0] as SaveId, entries }
  }
  return { moved, touched, relived, snapshot }
}

/** Each operation runs whole, when its task runs. */
const step =
  <L, A>(operation: () => E.Either<L, A>): TaskEither<L, A> =>
  async () =>
    Promise.resolve(operation())

const listed = ([id, { createdAt, expiration }]: readonly [SessionId, Rows]): Listed => ({
  id,
  createdAt,
  expiration,
})

const pickSaved = ({ revision, expiration }: Rows): Saved => ({ revision, expiration })

const begun = ({ idleMs, absoluteMs }: OwnLifetime, now: number) => ({
  expiration: now + Math.min(idleMs, absoluteMs),
  absoluteExpiration: now + absoluteMs,
})

const newRows = (
  secret: SecretHash,
  save: SaveId,
  entries: Entries,
  now: number,
  lifetime: Lifetime,
): Rows => ({
  secret,
  createdAt: now,
  ...begun(ownLifetimeOf(entries) ?? lifetime, now),
  revision: 1,
  entries,
  recent: [save],
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
