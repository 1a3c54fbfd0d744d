// Tests that an operation whose answer was lost is done once, and that a hanging database leads to a typed error in
// time.

import { execFileSync } from 'node:child_process'
import { chownSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { generate } from 'selfsigned'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { retried, retryPolicyOf } from '../lib/db/deadline.js'
import {
  buildSession,
  loadSession,
  rotateSession,
  saveSession,
  sessionSet,
  sessionToken,
  sessionUpdate,
} from '../lib/promise/index.js'
import { type SessionStoreOptions, sessionStore } from '../lib/sql/store.js'
import type { Session } from '../lib/store/contract.js'
import { times } from './support/at-length.js'
import {
  quietPool,
  rowsOf,
  type ServerDriver,
  type ServerOptions,
  serverDrivers,
} from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'
import { left } from './support/stores.js'

const tries = times(100, 500)
const server = await startPostgres()
const proxy = await startProxy(server.url)
t.teardown(async () => {
  await proxy.close()
  await server.stop()
})

const count = (key: string) => sessionUpdate(key, (n) => Number(n) + 1, 0)

const reload = async (session: Session, store = session.handle): Promise<Session> =>
  (await loadSession(store, sessionToken(session))) ?? Promise.reject(new Error('it is not there'))

/** Freezes all processes of the server. Returns the function that resumes them. */
const freeze = (): (() => void) => {
  const children = execFileSync('ps', ['-o', 'pid=', '--ppid', String(server.pid)])
    .toString()
    .split('\n')
    .map(Number)
  const pids = [server.pid, ...children.filter((pid) => pid > 0)]
  for (const pid of pids) process.kill(pid, 'SIGSTOP')
  return () => {
    // The process of a closed connection may have ended.
    execFileSync('sh', ['-c', `kill -CONT ${pids.join(' ')} || true`], { stdio: 'ignore' })
  }
}

/** Enables TLS on the server. */
const offerTls = async (): Promise<void> => {
  const { cert, private: key } = await generate([{ name: 'commonName', value: 'localhost' }])
  const { uid, gid } = statSync(server.dataDir)
  for (const [name, text] of Object.entries({ 'server.crt': cert, 'server.key': key })) {
    writeFileSync(join(server.dataDir, name), text, { mode: 0o600 })
    chownSync(join(server.dataDir, name), uid, gid)
  }
  const sql = quietPool(server.url, { max: 1 })
  await sql`alter system set ssl = on`
  await sql`select pg_reload_conf()`
  await sql.end({ timeout: 1 })
}

const suite = (t: Test, driver: ServerDriver): void => {
  const databaseAt = (url: string, timeoutMs: number, options: ServerOptions = {}) => {
    const database = driver.open(url, { max: 1, timeoutMs, ...options })
    t.teardown(() => database.close())
    return database
  }
  const storeAt = (url: string, timeoutMs: number, options: SessionStoreOptions = {}) =>
    sessionStore(databaseAt(url, timeoutMs), options)

  t.test(
    `a save whose answer was lost is done once, in ${String(tries)} tries of ${String(tries)}`,
    async (t) => {
      const [near, far] = [storeAt(server.url, 5_000), storeAt(proxy.url, 5_000)]
      const session = await saveSession(sessionSet('kept', 1)(buildSession(near)))
      // The first save gets its answers, so that all statements are prepared. From now on only answers to saves are lost.
      await saveSession(count('n')(await reload(session, far)))
      const lost = proxy.lost()
      let others = 0
      const other = async (): Promise<void> => {
        others += 1
        await saveSession(count(others % 2 === 0 ? 'n' : 'other')(await reload(session, near)))
      }
      for (let attempt = 0; attempt < tries; attempt += 1) {
        const mine = count('n')(await reload(session, far))
        proxy.loseNextAnswer(attempt % 2 === 0 ? other : () => Promise.resolve())
        const saved = await saveSession(mine)
        if (saved.edits.size > 0) t.fail('it was not saved')
      }
      t.equal(proxy.lost() - lost, tries)
      const { n, other: o, kept } = (await reload(session)).store.toObject()
      t.strictSame([kept, Number(n) + Number(o)], [1, 1 + tries + others])
      t.strictSame([o, n], [Math.ceil(others / 2), 1 + tries + Math.floor(others / 2)])
    },
  )

  t.test(
    'a save that had to look first is done once too, though the answer to its commit was lost',
    async (t) => {
      const [near, far] = [storeAt(server.url, 5_000), storeAt(proxy.url, 5_000)]
      const session = await saveSession(count('n')(buildSession(near)))
      for (let attempt = 0; attempt < 50; attempt += 1) {
        const mine = count('n')(await reload(session, far))
        await saveSession(count('n')(await reload(session)))
        const before = proxy.lost()
        proxy.loseNextAnswer(async () => {
          if (attempt % 2 === 0) await saveSession(count('other')(await reload(session)))
        }, 'a commit')
        t.equal((await saveSession(mine)).store.get('n'), 3 + 2 * attempt)
        t.equal(proxy.lost(), before + 1)
      }
    },
  )

  t.test('a creation, a rotation and a blind save whose answers were lost are done once too', async (t) => {
    const [near, far] = [storeAt(server.url, 5_000), storeAt(proxy.url, 5_000)]
    await saveSession(sessionSet('warm', 1)(buildSession(far)))
    const before = proxy.lost()
    for (let attempt = 0; attempt < 20; attempt += 1) {
      proxy.loseNextAnswer(() => Promise.resolve())
      const created = await saveSession(sessionSet('a', 1)(buildSession(far)))
      proxy.loseNextAnswer(() => Promise.resolve())
      const rotated = await rotateSession(created)
      proxy.loseNextAnswer(async () => {
        await saveSession(sessionSet('a', 'other')(await reload(rotated, near)))
      })
      const saved = await saveSession(sessionSet('a', 'mine')(rotated))
      t.equal(
        (await reload(saved, near)).store.get('a'),
        'other',
        'mine was first, and is not repeated after theirs',
      )
      t.equal(saved.store.get('a'), 'other')
    }
    t.ok(proxy.lost() - before >= 40, `${String(proxy.lost() - before)} answers were lost`)
  })

  t.test(
    'a frozen database is a typed error within the deadline; once it goes on, so do requests',
    async (t) => {
      const database = databaseAt(server.url, 400)
      const store = sessionStore(database, { retry: { attempts: 1 } })
      const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
      const goOn = freeze()
      t.teardown(goOn)
      const start = performance.now()
      t.match(await left(store.load(session.id, session.token.hash)), {
        _tag: 'DriverError',
        retryable: true,
      })
      await t.rejects(saveSession(sessionSet('b', 1)(session)), { message: /no answer within 400 ms/ })
      t.ok(performance.now() - start < 1_600, 'each within twice its deadline')
      goOn()
      // The same pool recovers by itself. Statements that were never sent are not sent later.
      const patient = sessionStore(database)
      const saved = await saveSession(sessionSet('c', 1)(await reload(session, patient)))
      t.strictSame(saved.store.toObject(), { a: 1, c: 1 })
    },
  )

  for (const tls of [false, true])
    t.test(`a connection that falls silent is replaced in its pool; TLS: ${String(tls)}`, async (t) => {
      if (tls) await offerTls()
      const database = databaseAt(proxy.url, 300, { tls })
      const store = sessionStore(database, { retry: { attempts: 1 } })
      const session = await saveSession(sessionSet('a', 1)(buildSession(store)))
      proxy.disturb({ hole: 1 })
      t.match(await left(store.load(session.id, session.token.hash)), {
        _tag: 'DriverError',
        retryable: true,
      })
      proxy.disturb({})
      // Retries until a new connection replaces the broken one.
      const patient = sessionStore(database, {
        retry: { attempts: 50, totalTimeoutMs: 5_000, baseDelayMs: 1 },
      })
      t.equal((await reload(session, patient)).store.get('a'), 1)
      const [row] = await rowsOf(database, 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')
      t.equal(row?.['ssl'], tls)
    })
}

for (const driver of serverDrivers)
  t.test(driver.name, (t) => {
    suite(t, driver)
    t.end()
  })

t.test('trying again is bounded in number and in time, and only for what may succeed', async (t) => {
  const calls = async (policy: object, error: unknown): Promise<number> => {
    let count = 0
    const task = pipe(
      TE.fromIO(() => {
        count += 1
      }),
      TE.chain(() => TE.left(error)),
    )
    t.equal(await left(retried(retryPolicyOf(policy))(task)), error)
    return count
  }
  const passing = new DriverError('lost', { retryable: true })
  t.equal(await calls({ attempts: 4, baseDelayMs: 1 }, passing), 4)
  t.equal(await calls({ attempts: 1 }, passing), 1)
  t.equal(await calls({ attempts: 9, totalTimeoutMs: 0, baseDelayMs: 1_000 }, passing), 1)
  t.equal(await calls({}, new DriverError('refused', { retryable: false })), 1)
  t.equal(await calls({}, new Error('other')), 1)
  for (const policy of [{ attempts: 0 }, { totalTimeoutMs: -1 }, { baseDelayMs: Number.NaN }])
    t.throws(() => retryPolicyOf(policy), RangeError)
})
