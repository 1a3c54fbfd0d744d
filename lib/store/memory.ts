// Implements the session store in memory, for tests, for trials, and for a single process whose sessions may be lost.

import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { applyEdits, type Entries } from '../core/edits.js'
import { SaveConflict, SessionGone } from '../core/errors.js'
import { OWN } from '../core/key.js'
import { constVoid, E, flow, O, pipe, TE } from '../core/prelude.cjs'
import type { Snapshot } from '../core/session.js'
import {
  type IdempotencyKey,
  randomSecret,
  type SecretHash,
  type SessionId,
  verifiableIds,
} from '../core/token.js'
import { deviceOf, LIFETIME, type OwnLifetime, ownLifetimeOf, PRINCIPAL } from '../core/well-known-keys.js'
import {
  type Absence,
  type Change,
  type Lifetime,
  type Listed,
  lifetimeOf,
  RECENT_SAVES,
  type Saved,
  type SessionStore,
} from './contract.js'
import type { FlowStore } from './flow-contract.js'
import { MemoryFlows } from './memory-flows.js'

/** Returns milliseconds since 1970-01-01T00:00:00Z. */
export type Clock = () => number

/** The data of one session, as an immutable value. Each change makes a new value. */
interface Rows {
  readonly secret: SecretHash
  readonly previous?: { readonly secret: SecretHash; readonly until: number }
  readonly createdAt: number
  readonly expiration: number
  readonly absoluteExpiration: number
  readonly revision: number
  readonly entries: Entries
  /** The idempotency keys of the last saves, the newest first. */
  readonly recent: readonly IdempotencyKey[]
}

type RowChange<L> = (rows: Rows) => E.Either<L, Rows>

const isDone = (rows: Rows, save: IdempotencyKey | undefined): boolean =>
  save !== undefined && rows.recent.includes(save)

/** The time for which the id of an ended session is fenced, in milliseconds. */
const FENCE_MS = 3_600_000

/** Contains all sessions. If their number has doubled since the last cleanup, `insert` deletes expired sessions. */
class MemoryTable {
  readonly #rows = new Map<SessionId, Rows>()
  /** For each fenced id, the time at which the fence ends. The earliest time is first. */
  readonly #fenced = new Map<SessionId, number>()
  readonly #now: Clock
  readonly #ended: (id: SessionId) => void
  #deleteAt = 1024

  /** `ended` is called with the id of each session that is removed. */
  constructor(now: Clock, ended: (id: SessionId) => void) {
    this.#now = now
    this.#ended = ended
  }

  find(id: SessionId): O.Option<Rows> {
    return pipe(
      O.fromNullable(this.#rows.get(id)),
      O.filter((rows) => rows.expiration > this.#now()),
    )
  }

  open(id: SessionId, fits: (rows: Rows) => boolean): E.Either<Absence, Rows> {
    const rows = this.#rows.get(id)
    if (rows === undefined || !fits(rows)) return E.left('unknown')
    return rows.expiration > this.#now() ? E.right(rows) : E.left('expired')
  }

  /** The live sessions of a principal, the oldest first. */
  whose(principal: string): readonly (readonly [SessionId, Rows])[] {
    return [...this.#rows].filter(
      ([, { entries, expiration }]) => entries.get(PRINCIPAL) === principal && expiration > this.#now(),
    )
  }

  insert(id: SessionId, rows: Rows): E.Either<SaveConflict, Rows> {
    const present = this.#rows.get(id)
    if (present !== undefined)
      return isDone(present, rows.recent[0]) ? E.right(present) : E.left(new SaveConflict(id, 'create'))
    if ((this.#fenced.get(id) ?? 0) > this.#now()) return E.left(new SaveConflict(id, 'create'))
    if (this.#rows.size >= this.#deleteAt) {
      this.deleteExpired(Number.POSITIVE_INFINITY)
      this.#deleteAt = Math.max(1024, this.#rows.size * 2)
    }
    return E.right(this.#put(id, rows))
  }

  update<L>(id: SessionId, change: RowChange<L>): E.Either<L | SessionGone, Rows> {
    return pipe(
      this.find(id),
      E.fromOption(() => new SessionGone(id)),
      E.chainW(change),
      E.map((rows) => this.#put(id, rows)),
    )
  }

  /** Deletes a session and fences its id. Returns whether the session existed. */
  remove(id: SessionId): boolean {
    const now = this.#now()
    for (const [old, until] of this.#fenced) {
      if (until > now) break
      this.#fenced.delete(old)
    }
    this.#fenced.delete(id)
    this.#fenced.set(id, now + FENCE_MS)
    this.#ended(id)
    return this.#rows.delete(id)
  }

  #put(id: SessionId, rows: Rows): Rows {
    this.#rows.set(id, rows)
    return rows
  }

  /** Deletes at most `limit` expired sessions and returns their number. */
  deleteExpired(limit: number): number {
    let deleted = 0
    for (const [id, rows] of this.#rows) {
      if (deleted >= limit) break
      if (rows.expiration <= this.#now() && this.remove(id)) deleted += 1
    }
    return deleted
  }
}

export interface MemoryOptions extends Partial<Lifetime> {
  /** Returns the time in milliseconds since 1970. Default: the system's clock. */
  readonly clock?: Clock
}

/**
 * Makes a session store in the memory of this process. The sessions are lost when the process ends.
 *
 * @throws `RangeError` for an option that is out of range
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
  const now = options.clock ?? (() => Date.now())
  const ids = verifiableIds()
  ids.learn(randomSecret(), 0)
  const table = new MemoryTable(now, (id) => flows.remove(id))
  const { extendedExpiry, touched, saved, snapshot } = expiry(lifetime, now)
  const save = (id: SessionId, change: Change) =>
    E.map(snapshot)(table.update(id, flow(saved(change), E.right)))
  const flows = new MemoryFlows({ now, save, isAlive: (id) => O.isSome(table.find(id)) })
  return {
    lifetime,
    ids,
    clock: now,
    prepare: TE.right(undefined),
    create: (id, secret, save, entries) =>
      step(() => E.map(pickSaved)(table.insert(id, newRows(secret, save, entries, now(), lifetime)))),
    load: (id, secret) => step(() => E.right(E.map(snapshot)(table.open(id, secretMatches(secret, now()))))),
    save: (id, change) => step(() => save(id, change)),
    touch: (id) => step(() => E.map(pickSaved)(table.update(id, flow(extendedExpiry, E.right)))),
    refresh: (id, _known, _keys, touches) =>
      step(() => E.right(O.map(snapshot)(O.fromEither(table.update(id, flow(touched(touches), E.right)))))),
    rotate: (id, from, to) =>
      step(() => E.map(constVoid)(table.update(id, rotated(id, from, to, now() + lifetime.rotationGraceMs)))),
    destroy: (id) => step(() => E.map(constVoid)(E.right(table.remove(id)))),
    ...principals(table, lifetime),
    flows: flowsIn(flows),
  }
}

const flowsIn = (flows: MemoryFlows): FlowStore => ({
  read: (key, row, known) => step(() => E.right(flows.read(key, row, known))),
  begin: (key, flow, row) => step(() => flows.begin(key, flow, row)),
  write: (write) => step(() => flows.write(write)),
  claim: (claim, generation) => step(() => E.right(flows.claim(claim, generation))),
  record: (claim, value, chars) => step(() => E.right(flows.record(claim, value, chars))),
  release: (claim) => done(() => flows.release(claim)),
  list: (session) => step(() => E.right(flows.list(session))),
  drop: (key) => done(() => flows.drop(key)),
})

const principals = (
  table: MemoryTable,
  lifetime: Lifetime,
): Pick<SessionStore, 'sessionsOf' | 'endAll' | 'deleteExpired'> => ({
  sessionsOf: (principal) =>
    step(() =>
      E.right(
        table
          .whose(principal)
          .map(([id, rows]) => listed(id, rows, lifetime))
          .reverse(),
      ),
    ),
  endAll: (principal, { except, only }) =>
    step(() => {
      const ids = table.whose(principal).map(([id]) => id)
      return E.right(ids.filter((id) => id !== except && (only ?? id) === id && table.remove(id)))
    }),
  deleteExpired: (limit) =>
    step(() => {
      const sessions = table.deleteExpired(limit)
      return E.right({ sessions, more: sessions === limit, busy: false })
    }),
})

const edited = (rows: Rows, { edits, save }: Change): Pick<Rows, 'revision' | 'entries' | 'recent'> => ({
  revision: rows.revision + 1,
  entries: applyEdits(edits, rows.entries),
  recent: [save, ...rows.recent.slice(0, RECENT_SAVES - 1)],
})

const idleOf = ({ entries }: Rows, lifetime: Lifetime): number => (ownLifetimeOf(entries) ?? lifetime).idleMs

const expiry = (lifetime: Lifetime, now: Clock) => {
  const isDue = (rows: Rows): boolean => {
    const idleMs = idleOf(rows, lifetime)
    return (
      rows.expiration < rows.absoluteExpiration &&
      now() + idleMs - rows.expiration >= idleMs * lifetime.touchFraction
    )
  }
  const extendedExpiry = (rows: Rows): Rows => ({
    ...rows,
    expiration: Math.max(rows.expiration, Math.min(now() + idleOf(rows, lifetime), rows.absoluteExpiration)),
  })
  const withNewLifetime = (rows: Rows, { edits, entries }: Change): Rows =>
    edits.has(LIFETIME) ? { ...rows, ...initialExpiry(ownLifetimeOf(entries) ?? lifetime, now()) } : rows
  const saved =
    (change: Change) =>
    (rows: Rows): Rows =>
      isDone(rows, change.save)
        ? rows
        : { ...withNewLifetime(extendedExpiry(rows), change), ...edited(rows, change) }
  const touched =
    (touches = true) =>
    (rows: Rows): Rows =>
      touches && isDue(rows) ? extendedExpiry(rows) : rows
  const snapshot = (rows: Rows): Snapshot => {
    const { revision, expiration, entries, recent } = rows
    return { revision, expiration, touchDue: isDue(rows), versionTag: recent[0] as IdempotencyKey, entries }
  }
  return { extendedExpiry, touched, saved, snapshot }
}

/** Returns a task that runs the whole operation synchronously, and thus atomically. */
const step =
  <L, A>(operation: () => E.Either<L, A>): TaskEither<L, A> =>
  async () =>
    Promise.resolve(operation())

const done = (operation: () => void): TaskEither<never, void> =>
  step(() => {
    operation()
    return E.right(undefined)
  })

const listed = (id: SessionId, rows: Rows, lifetime: Lifetime): Listed => {
  const { createdAt, expiration, entries } = rows
  const lastSeen = Math.max(createdAt, expiration - idleOf(rows, lifetime))
  return { id, createdAt, expiration, lastSeen, device: deviceOf(entries.get(OWN.device)) }
}

const pickSaved = ({ revision, expiration }: Rows): Saved => ({ revision, expiration })

const initialExpiry = ({ idleMs, absoluteMs }: OwnLifetime, now: number) => ({
  expiration: now + Math.min(idleMs, absoluteMs),
  absoluteExpiration: now + absoluteMs,
})

const newRows = (
  secret: SecretHash,
  save: IdempotencyKey,
  entries: Entries,
  now: number,
  lifetime: Lifetime,
): Rows => ({
  secret,
  createdAt: now,
  ...initialExpiry(ownLifetimeOf(entries) ?? lifetime, now),
  revision: 1,
  entries,
  recent: [save],
})

const secretMatches =
  (secret: SecretHash, now: number) =>
  (rows: Rows): boolean =>
    rows.secret === secret || (rows.previous?.secret === secret && rows.previous.until > now)

const rotated =
  (id: SessionId, from: SecretHash, to: SecretHash, until: number) =>
  (rows: Rows): E.Either<SaveConflict, Rows> =>
    rows.secret === from
      ? E.right({ ...rows, secret: to, previous: { secret: from, until } })
      : E.left(new SaveConflict(id, 'secret'))
