// Tests a pool with silent connections, a slow server, and a network that delivers data late.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { fileURLToPath } from 'node:url'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import type { Queryable } from '../lib/db/database.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadSession,
  saveSession,
  sessionFor,
  sessionSet,
  sessionToken,
  sessionUpdate,
} from '../lib/promise/index.js'
import { saveStatements } from '../lib/sql/save.js'
import { sessionStatements } from '../lib/sql/session-statements.js'
import { type SessionStoreOptions, sessionStore } from '../lib/sql/store.js'
import { batched } from '../lib/store/batched.js'
import type { Session } from '../lib/store/contract.js'
import { quietPool, rowsOf, type ServerDriver, serverDrivers } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'
import { right } from './support/stores.js'

const server = await startPostgres()
const proxy = await startProxy(server.url)
t.teardown(async () => {
  await proxy.close()
  await server.stop()
})

const direct = postgresDatabase(quietPool(server.url, { max: 2 }))
t.teardown(() => direct.close())
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const run = (db: Queryable, text: string) => db.query({ name: 'spec', text }, [])
const backends = async (): Promise<number> => {
  const text = `select count(*)::int as n from pg_stat_activity where backend_type = 'client backend'`
  return Number((await rowsOf(direct, text))[0]?.['n'])
}

const patient: SessionStoreOptions = { retry: { attempts: 50, totalTimeoutMs: 5_000, baseDelayMs: 5 } }

const NO_SAVE = '0000000000000000'

/** Makes a message of PostgreSQL's protocol. */
const message = (type: string, body: string): Buffer => {
  const text = Buffer.from(`${body}\0`)
  const length = Buffer.alloc(4)
  length.writeInt32BE(text.length + 4)
  return Buffer.concat([Buffer.from(type), length, text])
}

/** Runs a process that closes its database, and returns its output and its exit code. */
const closing = async (driver: ServerDriver, url: string, meanwhile: () => void) => {
  const script = fileURLToPath(new URL('./support/closing-child.mjs', import.meta.url))
  const child = spawn(process.execPath, [script, url, driver.name], {
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: 15_000,
  })
  const [said] = (await once(child.stdout, 'data')) as [Buffer]
  meanwhile()
  child.stdin.end('close\n')
  const [code] = (await once(child, 'close')) as [number | null]
  return [said.toString(), code]
}

const suite = (t: Test, driver: ServerDriver): void => {
  const databaseAt = (url: string, timeoutMs: number, max: number) => {
    const database = driver.open(url, { max, timeoutMs })
    t.teardown(() => database.close())
    return database
  }
  const storeAt = (url: string, timeoutMs: number, options: SessionStoreOptions = {}) =>
    sessionStore(databaseAt(url, timeoutMs, 2), options)

  t.test('all connections of a pool recover, though every caller asks again at once', async (t) => {
    const database = databaseAt(proxy.url, 1_000, 4)
    const four = () =>
      Promise.all([1, 2, 3, 4].map(() => rowsOf(database, 'select pg_backend_pid() as pid, pg_sleep(0.05)')))
    for (let round = 0; round < 3; round += 1) {
      await four()
      proxy.disturb({ hole: 1 })
      const asking = [1, 2, 3, 4, 5, 6, 7, 8].map(async () => {
        for (let tries = 0; tries < 60; tries += 1)
          if (E.isRight(await run(database, 'select 1')())) return tries
        return Promise.reject(new Error('it never recovers'))
      })
      await pause(100)
      proxy.disturb({})
      await Promise.all(asking)
      t.equal(new Set((await four()).map(([row]) => row?.['pid'])).size, 4)
    }
  })

  t.test('a statement that is late cuts no other one off', async (t) => {
    const database = databaseAt(server.url, 300, 2)
    const late = run(database, 'select pg_sleep(1)')()
    const others: unknown[] = []
    for (let count = 0; count < 10; count += 1)
      others.push((await run(database, 'select pg_sleep(0.1)')())._tag)
    t.equal((await late)._tag, 'Left')
    t.strictSame(
      others,
      Array.from({ length: 10 }, () => 'Right'),
    )
  })

  t.test('a lock that is held for long does not make ever more connections', async (t) => {
    const database = databaseAt(server.url, 200, 2)
    await rowsOf(direct, 'drop table if exists held')
    await rowsOf(direct, 'create table held as select 1 as n')
    const holder = quietPool(server.url, { max: 1 })
    const before = await backends()
    let most = 0
    await holder.begin(async (tx) => {
      await tx`select n from held for update`
      for (let count = 0; count < 15; count += 1) {
        await Promise.all([1, 2, 3].map(() => run(database, 'update held set n = n + 1')()))
        most = Math.max(most, await backends())
      }
    })
    await holder.end()
    // The five connections are one of the holder, two of the pool, and two of the pool that sends the probe.
    t.ok(most <= before + 5, `${String(most)} at most, ${String(before)} before`)
  })

  t.test('a transaction that ends late does not end the one that has its place by then', async (t) => {
    const database = driver.open(server.url, { max: 1, timeoutMs: 300, fixed: true })
    t.teardown(() => database.close())
    await right(run(database, 'drop table if exists written'))
    await right(run(database, 'create table written (x text)'))
    let pid: unknown
    const slow = database.transaction((tx) =>
      pipe(
        run(tx, 'select pg_backend_pid() as pid'),
        TE.chainFirstIOK((rows) => () => {
          pid = rows[0]?.['pid']
        }),
        TE.chain(() => run(tx, 'select pg_sleep(5)')),
        TE.orElse((error) => TE.fromTask(() => pause(700).then(() => error))),
        TE.chain((error) => TE.left(error)),
      ),
    )()
    await pause(400)
    await rowsOf(direct, `select pg_terminate_backend(${String(pid)})`)
    // The first statement after the termination may still get the error.
    while (E.isLeft(await run(database, 'select 1')()));
    const insert = (tx: Queryable, x: string) => run(tx, `insert into written values ('${x}')`)
    const other = database.transaction((tx) =>
      pipe(
        insert(tx, 'first'),
        TE.chainFirst(() => TE.fromTask(() => pause(600))),
        TE.chain(() => run(tx, 'select 1')),
        TE.chain(() => insert(tx, 'second')),
      ),
    )
    await right(other)
    t.equal((await slow)._tag, 'Left')
    t.strictSame(await rowsOf(direct, 'select x from written'), [{ x: 'first' }, { x: 'second' }])
  })

  t.test('law 6, no resurrection: a creation that arrives late does not bring a session back', async (t) => {
    const [near, far] = [storeAt(server.url, 5_000), storeAt(proxy.url, 300, patient)]
    await saveSession(sessionSet('warm', 1)(buildSession(far)))
    const deliver = proxy.holdUp()
    const creating = saveSession(sessionSet('user', 'ada')(buildSession(far)))
    await pause(400)
    // From now on new connections are not delayed. Data that was sent before stays delayed.
    const late = proxy.holdUp()
    late()
    const session = await creating
    await destroySession(session)
    deliver()
    await pause(300)
    t.equal(await loadSession(near, sessionToken(session)), undefined)
    t.strictSame(await rowsOf(direct, `select 1 from keyrow.session where id = '${session.id}'`), [])
  })

  t.test(
    'law 6, no resurrection: a creation that is under way when its session is destroyed is waited for',
    async (t) => {
      const store = storeAt(server.url, 5_000)
      await right(store.prepare)
      const built = sessionSet('user', 'ada')(buildSession(store))
      const pool = quietPool(server.url, { max: 1 })
      t.teardown(() => pool.end({ timeout: 1 }))
      const { text } = sessionStatements('"keyrow"').create
      let destroying: Promise<unknown> = Promise.resolve()
      await pool.begin(async (tx) => {
        const entries = '{"keyrow:principal":["ada"]}'
        await tx.unsafe(text, [
          built.id,
          built.token.hash,
          entries,
          60_000,
          600_000,
          '0011223344556677',
          null,
        ])
        destroying = store.destroy(built.id)()
        await pause(200)
      })
      t.match(await destroying, { _tag: 'Right' })
      t.strictSame(await rowsOf(direct, `select 1 from keyrow.session where id = '${built.id}'`), [])
      t.equal(await loadSession(store, sessionToken(built)), undefined)
    },
  )

  t.test('destructions, ends and saves of one principal at once make no deadlock', async (t) => {
    const store = storeAt(server.url, 5_000, { retry: { attempts: 1 } })
    for (let round = 0; round < 40; round += 1) {
      const ada = `ada ${String(round)}`
      const mine = await Promise.all([1, 2, 3].map(() => saveSession(sessionFor(ada)(buildSession(store)))))
      const failures: unknown[] = []
      const note = (error: { readonly _tag: string }): void => {
        if (error._tag !== 'SessionGone') failures.push(error)
      }
      await Promise.all([
        ...mine.map((session) => destroySession(session).catch(note)),
        ...mine.map((session) => saveSession(sessionFor(`${ada}!`)(session)).catch(note)),
        destroySessionsOf(store, ada).catch(note),
        destroySessionsOf(store, `${ada}!`).catch(note),
      ])
      t.strictSame(failures, [])
    }
  })

  t.test(
    'law 5, no lost updates: a save too far back to be told from its first try is not done twice',
    async (t) => {
      const [near, far] = [storeAt(server.url, 5_000), storeAt(proxy.url, 5_000, patient)]
      const count = sessionUpdate('n', (n) => Number(n) + 1, 0)
      const session = await saveSession(count(buildSession(near)))
      const now = async (store = near) =>
        (await loadSession(store, sessionToken(session))) ?? Promise.reject(new Error('not there'))
      await saveSession(count(await now(far)))
      const others = (times: number) => async () => {
        for (let other = 0; other < times; other += 1)
          await saveSession(sessionSet('other', other)(await now()))
      }
      const mine = count(await now(far))
      proxy.loseNextAnswer(others(64))
      await t.rejects(saveSession(mine), {
        _tag: 'DriverError',
        retryable: false,
        message: /is unknown whether/,
      })
      t.equal((await now()).store.get('n'), 3)
      const again = count(await now(far))
      proxy.loseNextAnswer(others(62))
      t.equal((await saveSession(again)).store.get('n'), 4)
      t.equal((await now()).store.get('n'), 4)
      // A slow request is saved, however many other saves came before.
      const slow = sessionSet('slow', 1)(await now())
      await others(70)()
      t.equal((await saveSession(slow)).store.get('slow'), 1)
    },
  )

  t.test(
    'law 5, no lost updates: a save of a batch too far back to be told from its first try is not done twice',
    async (t) => {
      const [near, far] = [storeAt(server.url, 5_000), batched(storeAt(proxy.url, 5_000, patient))]
      const count = sessionUpdate('n', (n) => Number(n) + 1, 0)
      const [one, two] = [
        await saveSession(count(buildSession(near))),
        await saveSession(count(buildSession(near))),
      ]
      const now = async ({ token }: Session, store = near) =>
        (await loadSession(store, token.reveal())) ?? Promise.reject(new Error('not there'))
      const bothNow = () => Promise.all([now(one, far), now(two, far)])
      const saved = (both: readonly Session[]) =>
        Promise.allSettled(both.map((session) => saveSession(count(session))))
      t.strictSame(
        (await saved(await bothNow())).map(({ status }) => status),
        ['fulfilled', 'fulfilled'],
      )
      const both = await bothNow()
      proxy.loseNextAnswer(async () => {
        for (let other = 0; other < 64; other += 1)
          await saveSession(sessionSet('other', other)(await now(one)))
      })
      t.match(await saved(both), [
        {
          status: 'rejected',
          reason: { _tag: 'DriverError', retryable: false, message: /is unknown whether/ },
        },
        { status: 'fulfilled', value: { id: two.id } },
      ])
      t.strictSame([(await now(one)).store.get('n'), (await now(two)).store.get('n')], [3, 3])
    },
  )

  t.test('law 5, no lost updates: a blind save that arrives late changes nothing', async (t) => {
    const [near, far] = [storeAt(server.url, 5_000), storeAt(proxy.url, 300, patient)]
    const session = await saveSession(sessionSet('theme', 'light')(buildSession(near)))
    const now = async (store = near) =>
      (await loadSession(store, sessionToken(session))) ?? Promise.reject(new Error('not there'))
    await saveSession(sessionSet('warm', 1)(await now(far)))
    const mine = sessionSet('theme', 'dark')(await now(far))
    const deliver = proxy.holdUp()
    const saving = saveSession(mine)
    await pause(400)
    const late = proxy.holdUp()
    late()
    await saving
    for (let other = 0; other < 70; other += 1) await saveSession(sessionSet('theme', other)(await now()))
    deliver()
    await pause(300)
    t.equal((await now()).store.get('theme'), 69)
  })

  t.test('a process whose connections have fallen silent ends when it has closed its database', async (t) => {
    t.strictSame(await closing(driver, proxy.url, () => proxy.disturb({ hole: 1 })), [
      'Right Right Right\n',
      0,
    ])
    proxy.disturb({})
  })

  t.test('a process whose idle connections have fallen silent ends too', async (t) => {
    t.strictSame(await closing(driver, proxy.url, proxy.silence), ['Right Right Right\n', 0])
  })

  t.test('a process that reaches no host ends when it has closed its database', async (t) => {
    const hosts = driver.name === 'postgres.js' ? '127.0.0.1:9,127.0.0.1:11' : '127.0.0.1:9'
    const url = `postgres://postgres@${hosts}/postgres?target_session_attrs=primary`
    t.strictSame(await closing(driver, url, () => undefined), ['Left Left Left\n', 0])
  })
}

for (const driver of serverDrivers)
  t.test(driver.name, (t) => {
    suite(t, driver)
    t.end()
  })

t.test('a program that cannot make another pool goes on with the one it has', async (t) => {
  let made = 0
  const database = postgresDatabase(
    () => {
      made += 1
      if (made > 1) throw new Error('the password is gone')
      return quietPool(server.url, { max: 2 })
    },
    { timeoutMs: 200 },
  )
  t.teardown(() => database.close())
  t.match(await run(database, 'select pg_sleep(0.5)')(), { _tag: 'Left' })
  t.match(await run(database, 'select 1')(), { _tag: 'Right' })
  t.equal(made, 2)
})

t.test('a client that falls silent in the middle of a save does not block its session', async (t) => {
  const store = sessionStore(direct, { retry: { attempts: 20, totalTimeoutMs: 30_000 } })
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const pool = quietPool(server.url, { max: 1 })
  t.teardown(() => pool.end({ timeout: 1 }))
  const { text } = saveStatements('"keyrow"').lock
  const locked = new Promise<number>((resolve, reject) => {
    const silent = pool.begin(async (tx) => {
      resolve((await tx.unsafe(text, [session.id, NO_SAVE, 0, NO_SAVE])).length)
      await new Promise(() => undefined)
    })
    silent.catch(reject)
  })
  t.equal(await locked, 1)
  t.equal((await saveSession(sessionSet('n', 2)(session))).store.get('n'), 2)
})

t.test('nor does one whose last words were half a statement', async (t) => {
  const store = sessionStore(direct, { retry: { attempts: 20, totalTimeoutMs: 30_000 } })
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const socket = connect(server.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  const heard: Buffer[] = []
  socket.on('data', (data) => heard.push(data))
  const ready = async (times: number) => {
    while (Buffer.concat(heard).toString('latin1').split('Z\0\0\0\x05').length <= times) await pause(10)
  }
  socket.write(message('', '\0\x03\0\0user\0postgres\0database\0postgres\0'))
  await ready(1)
  const { text } = saveStatements('"keyrow"').lock
  const params: Readonly<Record<string, string>> = { $1: session.id, $2: NO_SAVE, $3: '0', $4: NO_SAVE }
  const lock = text.replaceAll(/\$\d/g, (name) => `'${params[name] ?? ''}'`)
  socket.write(Buffer.concat([message('Q', 'begin'), message('Q', lock)]))
  await ready(3)
  // The statement is parsed and never bound, so its transaction is not idle.
  socket.write(message('P', '\0select 1\0\0'))
  t.equal((await saveSession(sessionSet('n', 2)(session))).store.get('n'), 2)
})
