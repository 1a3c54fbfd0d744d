// Tests the events on `node:diagnostics_channel`. No event contains a secret.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import * as E from 'fp-ts/lib/Either.js'
import t from 'tap'
import { DriverError, SaveConflict } from '../lib/core/errors.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadSession,
  rotateSession,
  saveSession,
  sessionFor,
  sessionSet,
  sessionToken,
  sessionUpdate,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { deleteExpiredSessions } from '../lib/store/cleanup.js'
import { onSessionEvent, type SessionEventName } from '../lib/store/events.js'
import { memoryStore } from '../lib/store/memory.js'
import { quietPool } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPool(url))
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

const names: readonly SessionEventName[] = [
  'created',
  'loaded',
  'saved',
  'conflict',
  'rotated',
  'destroyed',
  'expired',
  'badToken',
  'expiredDeleted',
  'upgraded',
  'failed',
]

/** Returns the events during `act`, without their durations. */
const told = async (act: () => Promise<unknown>): Promise<readonly (readonly [string, object])[]> => {
  const events: (readonly [string, object])[] = []
  const ends = names.map((name) =>
    onSessionEvent(name, (event) => {
      const { durationMs = 0, ...rest } = event as { readonly durationMs?: number }
      if (!(durationMs >= 0)) throw new Error('it takes no time')
      events.push([name, rest])
    }),
  )
  await act().finally(() => {
    for (const end of ends) end()
  })
  return events
}

t.test('a life of a session is told, by its id', async (t) => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema, idleMs: 60_000 })
  t.strictSame(await told(() => store.prepare()), [['upgraded', { schema, from: 0, to: 5 }]])
  const built = sessionSet('card', 'secret value')(buildSession(store))
  const { id } = built
  const token = sessionToken(built)
  const add = sessionUpdate('n', (n) => Number(n) + 1, 0)
  const events = await told(async () => {
    const created = await saveSession(built)
    const loaded = await loadSession(store, token)
    if (loaded === undefined) throw new Error('it is not there')
    await saveSession(add(loaded))
    await saveSession(add(sessionSet('other', 1)(loaded)))
    await rotateSession(created)
    await rotateSession(created).catch(() => undefined)
    await loadSession(store, token)
    await loadSession(store, 'no token')
    await destroySession(created)
  })
  t.strictSame(events, [
    ['created', { id, entries: 1 }],
    ['loaded', { id, entries: 1 }],
    ['saved', { id, edits: 1, rounds: 1 }],
    ['saved', { id, edits: 2, rounds: 2 }],
    ['rotated', { id }],
    ['conflict', { id, what: 'secret' }],
    ['badToken', { reason: 'unknown', id }],
    ['badToken', { reason: 'malformed' }],
    ['destroyed', { id }],
  ])
  const text = JSON.stringify(events)
  for (const secret of ['secret value', token.slice(37), built.token.hash]) t.notMatch(text, secret)
})

t.test('an expiry, the end of a principal, and a collection are told', async (t) => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema, idleMs: 60_000 })
  const old = await saveSession(sessionFor('ada')(buildSession(store)))
  await age(database, schema, 61_000)
  const young = await saveSession(sessionFor('ada')(buildSession(store)))
  const events = await told(async () => {
    await loadSession(store, sessionToken(old))
    await destroySessionsOf(store, 'ada', { except: old.id })
    await deleteExpiredSessions(store)()
  })
  t.strictSame(events, [
    ['expired', { id: old.id }],
    ['destroyed', { id: young.id }],
    ['expiredDeleted', { sessions: 1, batches: 1, finished: true }],
  ])
})

t.test('an expired session with a wrong secret is a bad token, not an expiry', async (t) => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema, idleMs: 60_000 })
  const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
  await age(database, schema, 61_000)
  const forged = `${session.id}${sessionToken(buildSession(store)).slice(36)}`
  t.strictSame(await told(() => loadSession(store, forged)), [
    ['badToken', { reason: 'unknown', id: session.id }],
  ])
})

t.test('a store that fails is told, with no word of what the server said', async (t) => {
  const store = memoryStore()
  const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
  const error = new DriverError('it quoted a secret', { retryable: false, sqlState: '53100' })
  const failing = { ...store, load: () => () => Promise.resolve(E.left(error)) }
  t.strictSame(await told(() => loadSession(failing, sessionToken(session)).catch(() => undefined)), [
    ['failed', { operation: 'load', error: 'DriverError', sqlState: '53100', retryable: false }],
  ])
  const losing = {
    ...store,
    rotate: () => () => Promise.resolve(E.left(new SaveConflict(session.id, 'secret'))),
  }
  const other = await loadSession(losing, sessionToken(session))
  if (other === undefined) throw new Error('it is not there')
  t.strictSame(await told(() => rotateSession(other).catch(() => undefined)), [
    ['conflict', { id: session.id, what: 'secret' }],
  ])
})

t.test(
  'the channels are named as documented, their events are frozen, and tasks tell when they run',
  async (t) => {
    const heard: unknown[] = []
    const hear = (event: unknown): void => void heard.push(event)
    subscribe('keyrow:created', hear)
    const store = memoryStore()
    const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
    unsubscribe('keyrow:created', hear)
    t.match(heard, [{ id: session.id, entries: 1 }])
    t.ok(Object.isFrozen(heard[0]))
    const { loadSession: loading } = await import('../lib/request/verbs.js')
    t.strictSame(await told(async () => loading(store, 'no token')), [])
  },
)
