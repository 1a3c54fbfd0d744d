// One of several servers of a long run, with mixed traffic at a constant rate and a cleanup in the background. It
// answers each message `sample` with its work since the last sample, and its memory after a full garbage collection.
// The message `stop` ends it. soak-child.mjs '{"url", "schema", "lasting", "visitors", "perSecond", "idleMs",
// "maxBytes"}' (with --expose-gc and IPC)

import { setTimeout as delay } from 'node:timers/promises'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import {
  buildSession,
  destroySession,
  loadSession,
  rotateSession,
  saveSession,
  sessionDel,
  sessionSet,
  sessionToken,
  sessionUpdate,
  startCleanup,
} from 'keyrow/promise'
import { batched, cached, observedDatabase, sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const { gc } = globalThis
const task = JSON.parse(process.argv[2])
const random = (n) => Math.floor(Math.random() * n)
const pick = (list) => list[random(list.length)]

const nothing = () => ({
  requests: 0,
  statements: 0,
  made: 0,
  ended: 0,
  expired: 0,
  gone: 0,
  failures: [],
  took: [],
})
let did = nothing()

// The deadline is long enough for a busy machine, since this run does not measure time.
const pool = () => postgres(task.url, { ...poolOptions, max: 6, onnotice: () => undefined })
const database = observedDatabase(postgresDatabase(pool, { timeoutMs: 60_000 }), () => {
  did.statements += 1
})
const open = (idleMs) =>
  batched(cached(sessionStore(database, { schema: task.schema, idleMs }), { maxBytes: task.maxBytes / 2 }))
// All processes use the lasting sessions. Visitors use one process, and their sessions expire soon.
const [longStore, shortStore] = [open(30 * 60_000), open(task.idleMs)]
const collector = startCleanup(shortStore, { everyMs: 2_000 })

const text = (length) => String(random(1e9)).padEnd(length, 'x')
const visitors = []
const abandoned = []

/** Replaces a visitor. The session of the replaced visitor is not used any more, and expires. */
const arrive = async (place) => {
  const keys = Array.from({ length: 10 }, (_, index) => `key ${String(index)}`)
  const session = keys.reduce((session, key) => sessionSet(key, text(300))(session), buildSession(shortStore))
  const saved = await saveSession(session)
  visitors[place] = sessionToken(saved)
  did.made += 1
  return saved
}

const abandon = async (place) => {
  if (abandoned.push(visitors[place]) > 50) abandoned.shift()
  await arrive(place)
}

/** Returns the session of a visitor, or a new session if the old session has expired. */
const visit = async (place) => {
  const session = await loadSession(shortStore, visitors[place])
  if (session !== undefined) return session
  did.expired += 1
  return arrive(place)
}

const last = async () => {
  const session = await loadSession(longStore, pick(task.lasting))
  if (session === undefined) throw new Error('a session that is to last is gone')
  return session
}

let items = 0

/** Adds keys with new names until there are five, and then deletes these keys. */
const fillOrEmpty = (session) => {
  const names = [...session.store.keys()].filter((key) => key.startsWith('item '))
  if (names.length >= 5) return names.reduce((session, name) => sessionDel(name)(session), session)
  items += 1
  return sessionSet(`item ${String(process.pid)}.${String(items)}`, text(50))(session)
}

const signOut = async (place) => {
  await destroySession(await visit(place))
  did.ended += 1
  await arrive(place)
}

const rotate = async (place) => {
  const session = await visit(place)
  try {
    visitors[place] = sessionToken(await rotateSession(session))
  } catch (error) {
    // Only one of several concurrent rotations succeeds.
    if (error._tag !== 'SaveConflict') throw error
    did.gone += 1
  }
}

const change = async (session) => {
  await saveSession(sessionSet(`key ${String(random(10))}`, text(300))(session))
}

const requests = [
  ...Array(25).fill((place) => visit(place)),
  ...Array(10).fill(() => last()),
  ...Array(20).fill(async (place) => change(await visit(place))),
  ...Array(8).fill(async () => change(await last())),
  ...Array(12).fill(async () => saveSession(sessionUpdate('count', (n) => n + 1, 0)(await last()))),
  ...Array(15).fill(async () => saveSession(fillOrEmpty(await last()))),
  ...Array(4).fill((place) => abandon(place)),
  ...Array(2).fill((place) => signOut(place)),
  ...Array(2).fill((place) => rotate(place)),
  ...Array(2).fill(() => loadSession(shortStore, pick(abandoned) ?? '')),
]

const request = async () => {
  const start = performance.now()
  try {
    await pick(requests)(random(task.visitors))
  } catch (error) {
    // A concurrent request of the same visitor signed out or rotated the secret.
    if (error._tag === 'SessionGone') did.gone += 1
    else did.failures.push(String(error.stack ?? error))
  }
  did.requests += 1
  did.took.push(performance.now() - start)
}

let stopping = false
const WORKERS = 8

const worker = async () => {
  const pause = (1_000 * WORKERS) / task.perSecond
  for (
    let next = performance.now() + random(pause);
    !stopping;
    next = Math.max(next + pause, performance.now() - pause)
  ) {
    await delay(next - performance.now())
    await request()
  }
}

const sample = () => {
  const { took, ...counts } = did
  did = nothing()
  gc()
  gc()
  const { heapUsed, external, rss } = process.memoryUsage()
  const p50 = took.sort((a, b) => a - b)[Math.floor(took.length / 2)] ?? 0
  return { ...counts, p50, heap: heapUsed + external, rss }
}

for (let place = 0; place < task.visitors; place += 1) await arrive(place)
const workers = Promise.all(Array.from({ length: WORKERS }, worker))
process.on('message', async (order) => {
  if (order === 'sample') return process.send(sample())
  stopping = true
  await workers
  await collector.stop()
  await database.close()
  process.disconnect()
})
process.send('ready')
