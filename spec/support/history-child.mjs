// One of several processes that run random operations on shared sessions. The process prints one line of JSON for each
// operation, with its result and its times by the machine's monotonic clock. With `points` the process may stop or kill
// itself before and after each command of the cache and each statement. It then also prints a line when an operation
// begins. When the cache does not answer, the process prints the time. history-child.mjs '{"driver", "url", "primary", "schema", "name", "operations", "workers", "lasting", "mortal",
// "broken", "distributed", "fast", "durability", "cache", "points"}'

import { createHash } from 'node:crypto'
import {
  destroySession,
  loadSession,
  onSessionEvent,
  saveSession,
  sessionDel,
  sessionRef,
  sessionSet,
  sessionUpdate,
} from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import { broken, brokenCache, brokenDatabase } from './broken-store.mjs'
import { withPoints } from './points.mjs'
import { openedCache, withLayers } from './server-cache.mjs'
import { opened } from './server-database.mjs'

const task = JSON.parse(process.argv[2])
const { database, cache } = withPoints(task.points, {
  database: brokenDatabase(
    task.broken,
    opened(task.driver, task.url, { max: 4, timeoutMs: task.timeoutMs, primary: task.primary }),
  ),
  cache: task.cache && brokenCache(task.broken, openedCache(task.cache)),
})
const forget = (id) =>
  database.query({ name: 'forget', text: `delete from ${task.schema}.listing where session_id = $1::uuid` }, [
    id,
  ])
const plain = sessionStore(database, {
  schema: task.schema,
  citus: task.distributed,
  durability: task.durability,
})
const layered = withLayers(plain, { ...task.cache, fast: task.fast, cache })
const store = broken(task.broken, layered, forget)

const now = () => Number(process.hrtime.bigint() / 1000n)
const random = (n) => Math.floor(Math.random() * n)
const pick = (list) => list[random(list.length)]

/** Returns the length and a hash of the session's list, to which all processes append. */
const listSeen = (session) => {
  const list = sessionRef('list', [])(session)
  return { n: list.length, hash: createHash('sha1').update(JSON.stringify(list)).digest('hex') }
}
const seenIn = (session, own) => ({
  revision: session.snapshot.value.revision,
  list: listSeen(session),
  own: sessionRef(own, null)(session),
})

let left = task.operations

// All processes use the same mortal session at about the same time, so that several processes use a session when it
// ends.
const mortalNow = () => {
  const turn = Math.floor((1 - left / task.operations) * task.mortal.length)
  return task.mortal[Math.min(turn, task.mortal.length - 1)]
}

const worker = async (name) => {
  for (let count = 0; left > 0; count += 1) {
    left -= 1
    const mortal = random(4) === 0
    const token = mortal ? mortalNow() : pick(task.lasting)
    const tag = `${name}/${count}`
    const kind = mortal && random(20) === 0 ? 'destroy' : pick(['read', 'append', 'append', 'set', 'delete'])
    const begun = { worker: name, session: token.slice(0, 36), kind, tag, start: now() }
    if (task.points) print({ ...begun, result: 'unknown' })
    print({ ...begun, ...(await operation(name, begun, token)), end: now() })
  }
}

const print = (entry) => process.stdout.write(`${JSON.stringify(entry)}\n`)

// A process to which the cache does not answer saves beside the heads.
let hiddenAt = 0
onSessionEvent('cacheFailed', () => {
  if (now() - hiddenAt < 50_000) return
  hiddenAt = now()
  print({ hiddenAt })
})

const operation = async (name, { kind, tag }, token) => {
  const own = `own ${name}`
  const done = { kind, tag }
  try {
    const session = await loadSession(store, token)
    if (session === undefined) return { ...done, kind: 'read', result: 'none' }
    const before = seenIn(session, own)
    Object.assign(done, { before, loaded: now() })
    if (kind === 'read') return { ...done, result: 'ok' }
    if (kind === 'destroy') {
      await destroySession(session)
      return { ...done, result: 'ok' }
    }
    const edit =
      kind === 'append'
        ? sessionUpdate('list', (list) => [...list, tag], [])
        : kind === 'set'
          ? sessionSet(own, tag)
          : sessionDel(own)
    const edited = edit(session)
    if (edited === session) return { ...done, kind: 'read', result: 'ok' }
    return { ...done, after: seenIn(await saveSession(edited), own), result: 'ok' }
  } catch (error) {
    const conflict = error._tag === 'SaveConflict' && task.broken !== 'none'
    if (error._tag !== 'SessionGone' && error._tag !== 'DriverError' && !conflict) throw error
    return { ...done, result: error._tag === 'SessionGone' ? 'gone' : 'unknown', error: String(error) }
  }
}

await Promise.all(Array.from({ length: task.workers }, (_, index) => worker(`${task.name}.${String(index)}`)))
const drained = task.broken === 'undrained' ? undefined : await layered.drain?.()
if (drained?._tag === 'Left') throw drained.left
await cache?.close()
await database.close()
