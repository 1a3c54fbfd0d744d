// A store for express-session, which @fastify/session takes too. Each session object that it gives out is
// remembered as it was, so that of what comes back only the keys that differ are written, and overlapping
// requests keep each other's. A session that has ended is not written again.

import { callbackify } from 'node:util'
import session from 'express-session'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { type Entries, noEdits } from '../core/edits.js'
import { SaveConflict, SessionGone } from '../core/errors.js'
import { emptySnapshot, storedSession } from '../core/session.js'
import type { Database } from '../db/database.js'
import { destroySession, loadSession, refreshSession, saveSession } from '../request/verbs.js'
import { DEFAULT_SCHEMA } from '../sql/schema.js'
import type { Session, SessionStore } from '../store/contract.js'
import { type AllSessions, allSessions } from './all-sessions.js'
import type { OldSession, OldSessions } from './migrate.js'
import { orThrow, sessionWith, takeOver } from './migrate.js'
import {
  entriesOf,
  hasEnded,
  isOver,
  objectOf,
  tokenOfSid,
  visible,
  withEdited,
  worthStoring,
} from './values.js'

export type { OldSession, OldSessions } from './migrate.js'
export {
  type ConnectPgSimpleOptions,
  connectPgSimple,
  type MigrateOptions,
  type MigrationResult,
  migrateSessions,
} from './migrate.js'

export interface ExpressSessionStoreOptions {
  /** The database of the store, for `all`, `length` and `clear`. */
  readonly database?: Database
  /** The schema of its tables. Default: `keyrow`. */
  readonly schema?: string
  /** Another store's sessions: one that is not found here is looked for there, and taken over. */
  readonly migrateFrom?: OldSessions
}

/** What was stored when a session object was given out or last saved. */
interface LoadedState {
  readonly session: Session
  readonly seen: Entries
  /** When `session` was read or written, in milliseconds since 1970. */
  readonly at: number
  /** The keys of a save that failed, which may have been written. */
  readonly doubted?: ReadonlySet<string> | undefined
}

/** A member by which an object that was copied from one of ours is known; no JSON shows it. */
const STATE_KEY = 'keyrow:known'

const loadedState = (session: Session): LoadedState => ({
  session,
  seen: visible(session.store),
  at: Date.now(),
})

type Data = session.SessionData
type Done = ((error?: unknown) => void) | undefined

/**
 * A store for express-session and for @fastify/session: `session({ store: expressSessionStore(store), … })`.
 *
 * A session ends when the store's lifetimes say so, or when its cookie's `maxAge` is over, whichever is first:
 * give the store an `idleMs` and an `absoluteMs` that are not shorter than your cookies' `maxAge`.
 *
 * @example
 * ```ts
 * import express from 'express'
 * import session from 'express-session'
 * import { expressSessionStore } from 'keyrow/express-session'
 * import { pgliteDatabase } from 'keyrow/pglite'
 * import { closeDatabase, sessionStore } from 'keyrow/promise'
 *
 * const database = pgliteDatabase()
 * const store = expressSessionStore(sessionStore(database, { idleMs: 86_400_000 }), { database })
 * const app = express()
 * app.use(session({ store, secret: 'keep it', resave: false, saveUninitialized: false }))
 * store.length?.((_error, length) => {
 *   console.log(length) // 0
 *   void closeDatabase(database)
 * })
 * ```
 */
export const expressSessionStore = (
  store: SessionStore,
  options: ExpressSessionStoreOptions = {},
): session.Store => new ExpressSessionStore(store, options)

class ExpressSessionStore extends session.Store {
  readonly #store: SessionStore
  readonly #from: OldSessions | undefined
  readonly #listing: AllSessions | undefined
  readonly #known = new WeakMap<object, LoadedState>()
  readonly #writing = new WeakMap<object, Promise<unknown>>()

  constructor(
    store: SessionStore,
    { database, schema = DEFAULT_SCHEMA, migrateFrom }: ExpressSessionStoreOptions,
  ) {
    super()
    this.#store = store
    this.#from = migrateFrom
    this.#listing = database === undefined ? undefined : allSessions(database, schema, isOver)
  }

  get(sid: string, callback: (error: unknown, data?: Data | null) => void): void {
    callbackify(() => this.#get(sid))(callback)
  }

  set(sid: string, data: Data, callback?: Done): void {
    callbackify(async () => {
      const now = entriesOf(data)
      await this.#inTurn(data, async () => {
        const known =
          (await this.#cached(sid, data)) ?? (await this.#create(sid, now)) ?? (await this.#found(sid))
        await this.#write(data, known, now)
      })
    })(ending(callback))
  }

  override touch(sid: string, data: Data, callback?: Done): void {
    callbackify(async () => {
      // Of what it has, only the cookie's time is looked at.
      const cookie = entriesOf({ cookie: data.cookie }).get('cookie')
      await this.#inTurn(data, async () => {
        const known = (await this.#cached(sid, data)) ?? (await this.#found(sid))
        // Another object may have moved the end since.
        if (known !== undefined && hasEnded(known.seen, Date.now()) && !(await this.#get(sid))) return
        await this.#write(data, known, cookie === undefined ? undefined : known?.seen.set('cookie', cookie))
      })
    })(ending(callback))
  }

  destroy(sid: string, callback?: Done): void {
    callbackify(() => this.#destroy(sid))(ending(callback))
  }

  override all(callback: (error: unknown, all?: Data[] | null) => void): void {
    callbackify(() => this.#all())(callback)
  }

  override length(callback: (error: unknown, length?: number) => void): void {
    callbackify(async () => orThrow((await this.#listed()).length))(callback)
  }

  override clear(callback?: Done): void {
    callbackify(() => this.#clear())(ending(callback))
  }

  /** express-session makes its own object of what `get` gave: that one will come back. */
  override createSession(...[req, data]: Parameters<session.Store['createSession']>) {
    const known = this.#knownOf(data)
    Reflect.deleteProperty(data, STATE_KEY)
    const made = super.createSession(req, data)
    if (known !== undefined) this.#known.set(made, known)
    return made
  }

  async #get(sid: string): Promise<Data | undefined> {
    const found = await this.#load(sid)
    if (found === undefined || hasEnded(found.store, Date.now())) return undefined
    const known = loadedState(found)
    // @fastify/session copies all members that can be listed into an object of its own.
    const state = Object.freeze(() => undefined)
    const data = { ...objectOf(known.seen), [STATE_KEY]: state }
    for (const handedOut of [data, state]) this.#known.set(handedOut, known)
    return data as unknown as Data
  }

  async #load(sid: string): Promise<Session | undefined> {
    const load = async () => O.toUndefined(await orThrow(loadSession(this.#store, tokenOfSid(sid).reveal())))
    const found = await load()
    if (found !== undefined || this.#from === undefined) return found
    const old = await orThrow(this.#from.find(sid))
    if (O.isNone(old)) return undefined
    const taken = await takeOver(this.#store, this.#from, old.value)
    if (taken === 'present') return load()
    return taken === 'rejected' ? undefined : taken
  }

  #knownOf(data: object): LoadedState | undefined {
    const state = (data as { readonly [STATE_KEY]?: unknown })[STATE_KEY]
    return this.#known.get(data) ?? (typeof state === 'function' ? this.#known.get(state) : undefined)
  }

  /** What is known of the object; keys of a save that failed are read again. */
  async #cached(sid: string, data: object): Promise<LoadedState | undefined> {
    const known = this.#knownOf(data)
    if (known?.doubted === undefined) return known
    const { seen, doubted } = known
    const found = await this.#found(sid)
    // Saving one that has ended meanwhile stores nothing.
    if (found === undefined) return known
    const isDoubted = (_: unknown, key: string): boolean => doubted.has(key)
    return { ...found, seen: seen.filterNot(isDoubted).merge(found.seen.filter(isDoubted)) }
  }

  /** The writes of one object are done one after the other: each differs from what the one before has stored. */
  #inTurn(data: object, write: () => Promise<void>): Promise<void> {
    const turn = (this.#writing.get(data) ?? Promise.resolve()).then(write)
    this.#writing.set(
      data,
      turn.catch(() => undefined),
    )
    return turn
  }

  /** Writes what differs between what was stored and `now`; not for a session that has ended. */
  async #write(data: Data, known: LoadedState | undefined, now: Entries | undefined): Promise<void> {
    if (known === undefined || now === undefined) return
    const { session, seen } = known
    const next = worthStoring(this.#store.lifetime, seen, now)
    const edited = withEdited(session, seen, next)
    const saved = await (this.#isStale(known, edited) ? refreshSession(edited) : saveSession(edited))()
    if (E.isRight(saved)) {
      const at = saved.right === session ? known.at : Date.now()
      this.#known.set(data, { session: saved.right, seen: next, at })
    } else if (!(saved.left instanceof SessionGone)) {
      this.#known.set(data, { ...known, doubted: new Set(edited.edits.keys()) })
      throw saved.left
    }
  }

  /** Whether its expiration may be due by now, which was not when it was read; one statement finds out, and moves it. */
  #isStale({ at }: LoadedState, { edits }: Session): boolean {
    const { idleMs, touchFraction } = this.#store.lifetime
    return edits.isEmpty() && Date.now() - at >= (idleMs * touchFraction) / 2
  }

  /** Makes the session of an object that is not ours. Not when its id is taken, or was. */
  async #create(sid: string, now: Entries): Promise<LoadedState | undefined> {
    const saved = await saveSession(sessionWith(this.#store, sid, now))()
    if (E.isRight(saved)) return { session: saved.right, seen: now, at: Date.now() }
    if (saved.left instanceof SaveConflict) return undefined
    throw saved.left
  }

  async #found(sid: string): Promise<LoadedState | undefined> {
    const found = await this.#load(sid)
    return found && loadedState(found)
  }

  async #destroy(sid: string): Promise<void> {
    const token = tokenOfSid(sid)
    await orThrow(destroySession(storedSession(this.#store, token, emptySnapshot, noEdits)))
    // Afterwards: until then it could be taken over, but not from now on.
    if (this.#from !== undefined) await orThrow(this.#from.remove(sid))
  }

  async #all(): Promise<Data[]> {
    const all = await orThrow((await this.#listed()).all)
    return all.map((entries) => objectOf(visible(entries)) as unknown as Data)
  }

  async #clear(): Promise<void> {
    await orThrow((await this.#listed()).clear)
    // Those that were not taken over yet could still be.
    for (let last: string | undefined = ''; this.#from !== undefined && last !== undefined; ) {
      const old: readonly OldSession[] = await orThrow(this.#from.after(last, 200))
      for (const { sid } of old) await this.#destroy(sid)
      last = old.at(-1)?.sid
    }
  }

  async #listed(): Promise<AllSessions> {
    if (this.#listing === undefined)
      throw new TypeError('expressSessionStore: give it the option `database` for all, length and clear')
    await orThrow(this.#store.prepare)
    return this.#listing
  }
}

const ending =
  (callback: Done) =>
  (error: unknown): void =>
    callback?.(error ?? undefined)
