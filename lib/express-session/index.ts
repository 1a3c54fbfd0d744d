// A store for express-session and @fastify/session. The store keeps the original entries of each session object that it
// returns, and writes only the changed keys. So concurrent requests do not overwrite each other's keys. A session that
// has ended is not written again.

import { callbackify } from 'node:util'
import session from 'express-session'
import { type Entries, noEdits } from '../core/edits.js'
import { type DriverError, orThrow, SessionGone } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { A, E, HashMap, O, pipe, TE, t } from '../core/prelude.cjs'
import { emptySnapshot, storedSession } from '../core/session.js'
import { type Database, ONCE_ON_PRIMARY, readCommitted } from '../db/database.js'
import { destroySession, loadSession, refreshSession, saveSession } from '../request/verbs.js'
import { endingOf, fenceListed, statementsOf } from '../sql/fragments.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import { DEFAULT_SCHEMA, quotedSchema } from '../sql/schema.js'
import type { Session, SessionStore } from '../store/contract.js'
import { createSession, migrateSession, type OldSession, type OldSessions } from './migrate.js'
import {
  entriesOf,
  entriesToStore,
  hasEnded,
  isOver,
  objectOf,
  tokenOfSid,
  visible,
  withEdited,
} from './values.js'

export type {
  ConnectPgSimpleOptions,
  MigrateOptions,
  MigrationResult,
  OldSession,
  OldSessions,
} from './migrate.js'
export { connectPgSimple, migrateSessions } from './migrate.js'

export interface ExpressSessionStoreOptions {
  /** The database of the store, which the methods `all`, `length` and `clear` need. */
  readonly database?: Database
  /** The schema of the store's tables. Default: `keyrow`. */
  readonly schema?: string
  /** The sessions of another store. A session that this store does not have is migrated from the other store. */
  readonly migrateFrom?: OldSessions
}

/** The stored state of a session at the time when its session object was returned or last saved. */
interface LoadedState {
  readonly session: Session
  readonly seen: Entries
  /** The time at which `session` was read or written, in milliseconds since 1970. */
  readonly at: number
  /** The keys of a failed save. The database may nevertheless have stored their values. */
  readonly uncertain?: ReadonlySet<string> | undefined
}

// A session object that `get` returns has a member of this name, by which the store recognises a copy of the object.
// JSON omits the member, since its value is a function.
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
 * A session ends when the store's lifetime or the cookie's `maxAge` is over, whichever is first. So the store's
 * `idleMs` and `absoluteMs`, in milliseconds, should not be shorter than the `maxAge` of your cookies.
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
  readonly #migrateFrom: OldSessions | undefined
  readonly #allSessions: AllSessions | undefined
  readonly #states = new WeakMap<object, LoadedState>()
  readonly #writes = new WeakMap<object, Promise<unknown>>()

  constructor(store: SessionStore, options: ExpressSessionStoreOptions) {
    super()
    const { database, schema = DEFAULT_SCHEMA } = options
    this.#store = store
    this.#migrateFrom = options.migrateFrom
    this.#allSessions = database && allSessions(database, schema)
  }

  get(sid: string, callback: (error: unknown, data?: Data | null) => void): void {
    callbackify(() => this.#get(sid))(callback)
  }

  set(sid: string, data: Data, callback?: Done): void {
    callbackify(async () => {
      const now = entriesOf(data)
      await this.#enqueue(data, async () => {
        const loaded =
          (await this.#currentState(sid, data)) ?? (await this.#create(sid, now)) ?? (await this.#load(sid))
        await this.#write(data, loaded, now)
      })
    })((error: unknown) => callback?.(error ?? undefined))
  }

  override touch(sid: string, data: Data, callback?: Done): void {
    callbackify(async () => {
      // express-session calls `touch` if nothing in the object has changed except the cookie's time.
      const cookie = entriesOf({ cookie: data.cookie }).get('cookie')
      await this.#enqueue(data, async () => {
        const loaded = (await this.#currentState(sid, data)) ?? (await this.#load(sid))
        // If the cookie has expired, the session is loaded again: a concurrent request may have extended the cookie.
        if (loaded !== undefined && hasEnded(loaded.seen, Date.now()) && !(await this.#get(sid))) return
        await this.#write(data, loaded, cookie === undefined ? undefined : loaded?.seen.set('cookie', cookie))
      })
    })((error: unknown) => callback?.(error ?? undefined))
  }

  destroy(sid: string, callback?: Done): void {
    callbackify(() => this.#destroy(sid))((error: unknown) => callback?.(error ?? undefined))
  }

  override all(callback: (error: unknown, all?: Data[] | null) => void): void {
    callbackify(async () => {
      const all = await orThrow((await this.#prepared()).all)
      return all.map((entries) => objectOf(visible(entries)) as unknown as Data)
    })(callback)
  }

  override length(callback: (error: unknown, length?: number) => void): void {
    callbackify(async () => orThrow((await this.#prepared()).length))(callback)
  }

  override clear(callback?: Done): void {
    callbackify(async () => {
      await orThrow((await this.#prepared()).clear)
      // Sessions that were not migrated yet are destroyed too, because a later request would migrate them.
      for (let last: string | undefined = ''; this.#migrateFrom !== undefined && last !== undefined; ) {
        const old: readonly OldSession[] = await orThrow(this.#migrateFrom.after(last, 200))
        for (const { sid } of old) await this.#destroy(sid)
        last = old.at(-1)?.sid
      }
    })((error: unknown) => callback?.(error ?? undefined))
  }

  /**
   * express-session makes a new session object here from the object that `get` returned, and later passes the new
   * object to `set`. So the new object gets the state of the returned object.
   */
  override createSession(...[req, data]: Parameters<session.Store['createSession']>) {
    const loaded = this.#stateOf(data)
    Reflect.deleteProperty(data, STATE_KEY)
    const made = super.createSession(req, data)
    if (loaded !== undefined) this.#states.set(made, loaded)
    return made
  }

  async #get(sid: string): Promise<Data | undefined> {
    const loaded = await this.#load(sid)
    if (loaded === undefined || hasEnded(loaded.session.store, Date.now())) return undefined
    // @fastify/session copies all enumerable members into its own object, which then also has the function `state`.
    const state = Object.freeze(() => undefined)
    const data = { ...objectOf(loaded.seen), [STATE_KEY]: state }
    for (const key of [data, state]) this.#states.set(key, loaded)
    return data as unknown as Data
  }

  async #load(sid: string): Promise<LoadedState | undefined> {
    const load = async () => {
      const found = await orThrow(loadSession(this.#store, tokenOfSid(sid).reveal()))
      return O.isSome(found) ? loadedState(found.value) : undefined
    }
    const found = await load()
    if (found !== undefined || this.#migrateFrom === undefined) return found
    const old = await orThrow(this.#migrateFrom.find(sid))
    if (O.isNone(old)) return undefined
    const migrated = await migrateSession(this.#store, this.#migrateFrom, old.value)
    if (migrated === 'present') return load()
    return migrated === 'rejected' ? undefined : loadedState(migrated)
  }

  #stateOf(data: object): LoadedState | undefined {
    const state = (data as { readonly [STATE_KEY]?: unknown })[STATE_KEY]
    return this.#states.get(data) ?? (typeof state === 'function' ? this.#states.get(state) : undefined)
  }

  /** Returns the state of a session object. If its last save failed, the keys of that save are read again. */
  async #currentState(sid: string, data: object): Promise<LoadedState | undefined> {
    const loaded = this.#stateOf(data)
    if (loaded?.uncertain === undefined) return loaded
    const { seen, uncertain } = loaded
    const found = await this.#load(sid)
    // The session has ended, so a save of `loaded` stores nothing.
    if (found === undefined) return loaded
    const isUncertain = (_: unknown, key: string): boolean => uncertain.has(key)
    return { ...found, seen: seen.filterNot(isUncertain).merge(found.seen.filter(isUncertain)) }
  }

  // Runs the writes of one object one after the other, because each write uses the state after the previous write.
  #enqueue(data: object, write: () => Promise<void>): Promise<void> {
    const turn = (this.#writes.get(data) ?? Promise.resolve()).then(write)
    const settled = turn.catch(() => undefined)
    this.#writes.set(data, settled)
    return turn
  }

  /** Writes the differences between the stored entries and `now`, unless the session has ended. */
  async #write(data: Data, loaded: LoadedState | undefined, now: Entries | undefined): Promise<void> {
    if (loaded === undefined || now === undefined) return
    const { session, seen } = loaded
    const next = entriesToStore(this.#store.lifetime, seen, now)
    const edited = withEdited(session, seen, next)
    // A touch may have become due since the session was read. A refresh then extends the expiration.
    const { idleMs, touchFraction } = this.#store.lifetime
    const isStale = edited.edits.isEmpty() && Date.now() - loaded.at >= (idleMs * touchFraction) / 2
    const saved = await (isStale ? refreshSession(edited) : saveSession(edited))()
    if (E.isRight(saved)) {
      const at = saved.right === session ? loaded.at : Date.now()
      this.#states.set(data, { session: saved.right, seen: next, at })
    } else if (!(saved.left instanceof SessionGone)) {
      this.#states.set(data, { ...loaded, uncertain: new Set(edited.edits.keys()) })
      throw saved.left
    }
  }

  /** Creates a session for an object that this store did not return, unless the session's id is or was in use. */
  async #create(sid: string, now: Entries): Promise<LoadedState | undefined> {
    const created = await createSession(this.#store, sid, now)
    return created && { session: created, seen: now, at: Date.now() }
  }

  async #destroy(sid: string): Promise<void> {
    const token = tokenOfSid(sid)
    await orThrow(destroySession(storedSession(this.#store, token, emptySnapshot, noEdits)))
    // The session in the other store is deleted last. Its id is already fenced, so no request can migrate the session.
    if (this.#migrateFrom !== undefined) await orThrow(this.#migrateFrom.remove(sid))
  }

  async #prepared(): Promise<AllSessions> {
    if (this.#allSessions === undefined)
      throw new TypeError('expressSessionStore: all, length and clear need the option `database`')
    await orThrow(this.#store.prepare)
    return this.#allSessions
  }
}

// The methods that concern all sessions of the express-session store. The same tables may also have other sessions. A
// session belongs to the express-session store if it has a key `cookie`.

const hasCookie = (schema: string): string =>
  `exists (select from ${schema}.entry c where c.session_id = s.id and c.key = 'cookie' and c.value is not null)`

const statements = statementsOf('express', {
  all: (schema) => `
select json_object_agg(e.key, e.value)::text as entries
from ${schema}.session s join ${schema}.entry e on e.session_id = s.id
where s.expires_at > now() and e.value is not null and ${hasCookie(schema)} and ${ONCE_ON_PRIMARY}
group by s.id
order by s.id`,

  // $1 is the current time by this process's clock, which also sets the times of cookies. The time has the form in
  // which JSON writes a `Date`. A cookie's time in this form is compared as text, because a cast to a timestamp would
  // fail for other strings. `others` has the cookies with a time in another form. `length` compares these times itself.
  count: (schema) => `
select
  count(*) filter (where c.expires is null or (c.is_date and c.expires collate "C" > $1::text))::int as n,
  coalesce(json_agg(c.value) filter (where c.expires is not null and not c.is_date), '[]')::text as others
from (
  select e.value, e.value ->> 'expires' as expires,
    e.value ->> 'expires' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$' as is_date
  from ${schema}.session s join ${schema}.entry e on e.session_id = s.id
  where s.expires_at > now() and e.key = 'cookie' and e.value is not null and ${ONCE_ON_PRIMARY}
) c`,

  // $1 is the batch size. Sessions are locked in the order of their ids. The statement fences the ids, so that no
  // delayed statement creates a session with one of these ids.
  clear: (schema) =>
    endingOf(schema, {
      lockedSessions: `
  select s.id from ${schema}.session s
  where ${hasCookie(schema)}
  order by s.id
  limit $1::int
  for update`,
      fenced: fenceListed(schema),
      result: 'select count(*)::int as n from ended',
    }),
})

const CLEAR_BATCH_SIZE = 500

type AllSessions = ReturnType<typeof allSessions>

const allSessions = (database: Database, schemaName: string) => {
  const own = readCommitted(database)
  const sql = statements(quotedSchema(schemaName))
  /** Ends all sessions of the store, including sessions whose cookie has expired. */
  const clear: TE.TaskEither<DriverError, void> = pipe(
    rowAs(t.type({ n: t.number }))(own, sql.clear, [CLEAR_BATCH_SIZE]),
    TE.chain(({ n }) => (n < CLEAR_BATCH_SIZE ? TE.right(undefined) : clear)),
  )
  return {
    clear,
    /** Returns the sessions whose row and cookie have not expired. */
    all: pipe(
      rowsAs(t.type({ entries: t.string }))(own, sql.all),
      TE.map(A.map(({ entries }) => HashMap(Object.entries(JSON.parse(entries) as Record<string, Json>)))),
      TE.map(A.filter((entries) => !hasEnded(entries, Date.now()))),
    ),
    /** Returns the number of sessions that `all` returns. */
    length: () => {
      const now = Date.now()
      const isAlive = (cookie: Json): boolean => !isOver(cookie, now)
      return pipe(
        rowAs(t.type({ n: t.number, others: t.string }))(own, sql.count, [new Date(now).toISOString()]),
        TE.map(({ n, others }) => n + (JSON.parse(others) as readonly Json[]).filter(isAlive).length),
      )()
    },
  }
}
