// Tests shared caches in real servers, Redis and memcached: `npm run spec:caches`. It needs redis-server and memcached,
// which are no npm packages. With LONG=1 the histories under faults take ten minutes.

import { AsyncLocalStorage } from 'node:async_hooks'
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { MemcacheClient } from 'memcache-client'
import { createClient, createCluster } from 'redis'
import t from 'tap'
import type { Cache, CacheErrorKind, CacheItem, CacheSwap } from '../../lib/cache/contract.js'
import { memcachedCache } from '../../lib/cache/memcached.js'
import { redisCache } from '../../lib/cache/redis.js'
import { writeThrough } from '../../lib/cache/write-through.js'
import {
  buildSession,
  loadSession,
  onSessionEvent,
  saveSession,
  sessionSet,
  sessionToken,
} from '../../lib/promise/index.js'
import { batched } from '../../lib/store/batched.js'
import type { SessionStore } from '../../lib/store/contract.js'
import { memoryStore } from '../../lib/store/memory.js'
import { sessionStoreLaws } from '../../lib/testing/index.js'
import { isLong } from '../support/at-length.js'
import { type CacheServer, startMemcached, startRedis } from '../support/cache-servers.js'
import { serverDrivers } from '../support/databases.js'
import { makeHistory } from '../support/history-run.js'
import { lateStores, lawsWithLateSaves } from '../support/late-stores.js'
import { startPostgres } from '../support/postgres-server.js'
import { startProxy } from '../support/proxy.js'
import { fast, openIn, right } from '../support/stores.js'

const postgres = await startPostgres()
const servers = [await startRedis(), await startMemcached()]
const databases = serverDrivers.map(({ name, open }) => ({ name, database: open(postgres.url, { max: 4 }) }))
t.teardown(async () => {
  for (const { database } of databases) await database.close()
  for (const server of servers) await server.stop()
  await postgres.stop()
})

const secrets = [randomBytes(32)]
const item = (key: string, bytes: number | Uint8Array = 10, ttlMs = 60_000): CacheItem => ({
  ...{ key, ttlMs },
  value: typeof bytes === 'number' ? randomBytes(bytes) : bytes,
})
const valuesOf = async (
  cache: Cache,
  ...keys: readonly string[]
): Promise<readonly (Uint8Array | undefined)[]> =>
  (await right(cache.get(keys))).map((found) => O.toUndefined(found)?.value)
const kindOf = async (result: Promise<E.Either<{ readonly kind: CacheErrorKind }, unknown>>) => {
  const outcome = await result
  return E.isLeft(outcome) ? outcome.left.kind : 'done'
}
/** Returns which swaps were done. A new version that the cache tells is the version of the value. */
const stored = async (cache: Cache, items: readonly CacheSwap[]): Promise<readonly boolean[]> => {
  const results = await right(cache.swap(items))
  for (const [index, { isStored, version }] of results.entries()) {
    const { key, value } = items[index] as CacheSwap
    if (!isStored || version === undefined) continue
    const again = await right(cache.swap([{ key, value, ttlMs: 60_000, version: O.some(version) }]))
    if (again[0]?.isStored !== true) throw new Error('the cache has another version')
  }
  return results.map(({ isStored }) => isStored)
}

/** A deadline that a busy machine does not miss. */
const PATIENT = { timeoutMs: 2_000 }

for (const server of servers) {
  const { name } = server
  t.test(
    `${name}: values of any bytes come back, in the order of the keys, until they are dropped`,
    async (t) => {
      const cache = server.open(PATIENT)
      const items = [
        item(
          'a',
          Uint8Array.from({ length: 256 }, (_, byte) => byte),
        ),
        item('b', 0),
        item('c', 1_000_000),
      ]
      await right(cache.set(items))
      const slice = item('slice', Buffer.from('xxslicexx').subarray(2, 7))
      await right(cache.set([slice]))
      const found = await valuesOf(cache, 'c', 'none', 'a', 'b', 'a', 'slice')
      t.strictSame(
        found.map((value) => value && Buffer.from(value)),
        [items[2], undefined, items[0], items[1], items[0], slice].map(
          (one) => one && Buffer.from(one.value),
        ),
      )
      await right(cache.set([item('a', Buffer.from('new'))]))
      t.equal(String((await valuesOf(cache, 'a'))[0]), 'new')
      await right(cache.drop(['a', 'never.there']))
      t.strictSame(
        (await valuesOf(cache, 'a', 'b')).map((value) => value?.length),
        [undefined, 0],
      )
      t.strictSame(await valuesOf(cache), [])
      await right(cache.set([]))
      await right(cache.drop([]))
      await cache.close()
      t.equal(await kindOf(cache.get(['b'])()), 'closed')
      await cache.close()
    },
  )

  t.test(
    `${name}: a swap stores a value only if nothing was written since the version was read`,
    async (t) => {
      const [cache, other] = [server.open(PATIENT), server.open(PATIENT)]
      const versionOf = async (key: string) =>
        O.map(({ version }: { readonly version: string }) => version)(
          (await right(cache.get([key])))[0] ?? O.none,
        )
      const swap = (key: string, version: O.Option<string>, value: string) =>
        stored(other, [{ ...item(key, Buffer.from(value)), version }])
      await right(cache.drop(['s']))
      await right(cache.set([item('s')]))
      const old = await versionOf('s')
      await right(cache.drop(['s']))
      t.strictSame(await swap('s', old, 'no'), [false], 'there is no value')
      t.strictSame(await swap('s', O.none, 'one'), [true])
      t.strictSame(await swap('s', O.none, 'two'), [false], 'there is a value')
      const first = await versionOf('s')
      t.strictSame([await swap('s', first, 'two'), await swap('s', first, 'three')], [[true], [false]])
      const second = await versionOf('s')
      await right(cache.set([item('s', Buffer.from('two'))]))
      t.strictSame(await swap('s', second, 'four'), [false], 'an equal value was written again')
      const third = await versionOf('s')
      await right(cache.drop(['s']))
      t.strictSame(await swap('s', third, 'five'), [false], 'the value was deleted')
      await right(cache.set([item('s', Buffer.from('six'))]))
      const several = [
        { ...item('s', Buffer.from('seven')), version: await versionOf('s') },
        { ...item('s2'), version: old },
        { ...item('s3'), version: O.none },
      ]
      await right(cache.drop(['s2', 's3']))
      t.strictSame(await stored(cache, several), [true, false, true])
      t.equal(String((await valuesOf(cache, 's'))[0]), 'seven')
      const winners = async () => {
        const version = await versionOf('s')
        const all = await Promise.all(
          Array.from({ length: 20 }, (_, index) =>
            stored(index % 2 === 0 ? cache : other, [{ ...item('s'), version }]),
          ),
        )
        return all.flat().filter((won) => won).length
      }
      for (let round = 0; round < 10; round += 1) t.equal(await winners(), 1)
      t.strictSame(await right(cache.swap([])), [])
      await Promise.all([cache.close(), other.close()])
    },
  )

  t.test(`${name}: a value ends after its lifetime, and not before`, async (t) => {
    const cache = server.open(PATIENT)
    await right(
      cache.set([item('short', 10, 1_500), item('long', 10, 400 * 24 * 3_600_000), item('tiny', 10, 1)]),
    )
    t.strictSame(
      (await valuesOf(cache, 'short', 'long')).map((value) => value?.length),
      [10, 10],
    )
    await delay(3_500)
    t.strictSame(
      (await valuesOf(cache, 'short', 'long', 'tiny')).map((value) => value?.length),
      [undefined, 10, undefined],
    )
    await cache.close()
  })

  t.test(
    `${name}: a key or a value that cannot be stored is not sent, and the connection goes on`,
    async (t) => {
      const cache = server.open({ ...PATIENT, maxValueBytes: 1_000 })
      const keys = ['', 'a b', 'a\r\nflush_all', 'é', 'k'.repeat(101), '\u007f', 'tab\t']
      await right(cache.set([item('kept')]))
      for (const key of keys)
        for (const command of [
          cache.get([key]),
          cache.drop(['kept', key]),
          cache.set([item('kept', 3), item(key)]),
        ])
          t.equal(await kindOf(command()), 'invalid', JSON.stringify(key))
      for (const wrong of [
        item('kept', 1_001),
        item('kept', 1, 0),
        item('kept', 1, -5),
        item('kept', 1, Number.NaN),
      ])
        t.equal(await kindOf(cache.set([wrong])()), 'invalid')
      t.equal((await valuesOf(cache, 'kept'))[0]?.length, 10)
      await cache.close()
    },
  )

  t.test(`${name}: two caches with different prefixes do not share values`, async (t) => {
    const [one, two] = [
      server.open({ ...PATIENT, prefix: 'one:' }),
      server.open({ ...PATIENT, prefix: 'two:' }),
    ]
    await right(one.set([item('a')]))
    t.strictSame([(await valuesOf(one, 'a'))[0]?.length, (await valuesOf(two, 'a'))[0]], [10, undefined])
    await Promise.all([one.close(), two.close()])
    for (const prefix of ['a b', 'x'.repeat(101), 'é', 5])
      t.throws(() => server.open({ prefix: prefix as string }), RangeError)
    for (const options of [
      { timeoutMs: 0 },
      { timeoutMs: '5' },
      { maxValueBytes: 0 },
      { maxValueBytes: 1.5 },
    ])
      t.throws(() => server.open(options as object), RangeError)
  })

  t.test(`${name}: a server that hangs costs five deadlines, then nothing, and is found again`, async (t) => {
    const cache = server.open({ timeoutMs: 100 })
    await right(cache.set([item('a')]))
    server.hang()
    const kinds: string[] = []
    const start = performance.now()
    // A server with several threads may still answer for a moment.
    while (kinds.filter((kind) => kind === 'timeout').length < 5 && performance.now() - start < 10_000)
      kinds.push(await kindOf(cache.get(['a'])()))
    t.equal(kinds.at(-1), 'timeout')
    t.strictSame(
      await Promise.all(Array.from({ length: 50 }, () => kindOf(cache.get(['a'])()))),
      Array.from({ length: 50 }, () => 'paused'),
    )
    server.goOn()
    await delay(1_200)
    t.equal((await valuesOf(cache, 'a'))[0]?.length, 10)
    await cache.close()
  })

  t.test(
    `${name}: a server that was killed is found again, and connections that went silent are replaced`,
    async (t) => {
      const proxy = await startProxy(`tcp://127.0.0.1:${String(server.port)}`)
      const cache = server.open({ timeoutMs: 300, port: Number(new URL(proxy.url).port) })
      await right(cache.set([item('a')]))
      await server.kill()
      t.not(await kindOf(cache.get(['a'])()), 'done')
      await server.start()
      const recovered = async () => {
        for (let attempt = 0; attempt < 40; attempt += 1) {
          if ((await kindOf(cache.get(['a'])())) === 'done') return true
          await delay(100)
        }
        return false
      }
      t.ok(await recovered(), 'after a restart')
      proxy.silence()
      t.not(await kindOf(cache.get(['a'])()), 'done')
      t.ok(await recovered(), 'after silence')
      await cache.close()
      await proxy.close()
    },
  )

  t.test(`${name}: the client belongs to no request`, async (t) => {
    const request = new AsyncLocalStorage<string>()
    const contexts: unknown[] = []
    const cache = server.open(PATIENT)
    await request.run('first', async () => right(cache.set([item('a')])))
    await request.run('second', async () => {
      await right(cache.get(['a']))
      contexts.push(request.getStore())
    })
    t.strictSame(contexts, ['second'])
    await cache.close()
  })

  for (const { name: driver, database } of databases) {
    const cache = server.open(PATIENT)
    t.teardown(() => cache.close())
    const layer = (store: SessionStore) => writeThrough(store, cache, { secrets, minBytes: 0 })
    for (const law of sessionStoreLaws(openIn(database, undefined, {}, layer)))
      t.test(`${name}, ${driver}: ${law.name} (write-through)`, law.run)
    for (const law of sessionStoreLaws(openIn(database, undefined, {}, (store) => layer(fast(store)))))
      t.test(`${name}, ${driver}: ${law.name} (write-through, batched, cached)`, law.run)
    const late = lateStores(database, cache)
    for (const law of lawsWithLateSaves(sessionStoreLaws(late((store) => batched(store)))))
      t.test(`${name}, ${driver}: ${law.name} (batched, write-behind, cached)`, law.run)
  }
}

const modes = ['through', 'behind'] as const
const cacheOf = (server: CacheServer, mode: (typeof modes)[number]) => ({
  ...{ server, mode },
  flushMs: [50, 200, 1_000],
})

for (const server of servers)
  for (const mode of modes)
    for (const fast of [false, true])
      t.test(
        `${server.name}: a history of several processes can be explained (${mode}${fast ? ', batched' : ''})`,
        async (t) => {
          const history = await makeHistory({
            ...{ url: postgres.url, processes: 3, operations: isLong ? 30_000 : 6_000, fast },
            // A process that starts on a busy machine may need long to connect.
            cache: { ...cacheOf(server, mode), timeoutMs: 10_000 },
          })
          t.strictSame([history.violations, history.errors], [[], []])
        },
      )

const faultsOf = (server: CacheServer) => ({
  flush: () => server.flush(),
  hang: async () => {
    server.hang()
    await delay(Math.random() * 1_500)
    server.goOn()
  },
  kill: async () => {
    await server.kill()
    await delay(Math.random() * 500)
    await server.start()
  },
})

/** Causes faults of the server at random. Returns their number. */
const disturb =
  (faults: readonly (() => Promise<void>)[]) =>
  async (isOver: () => boolean): Promise<number> => {
    for (let count = 0; ; count += 1) {
      await delay(300 + Math.random() * 700)
      if (isOver()) return count
      await faults[Math.floor(Math.random() * faults.length)]?.()
    }
  }

for (const server of servers)
  for (const mode of modes) {
    const each = Object.entries(faultsOf(server)).map(([name, fault]) => [name, [fault]] as const)
    const all = [...(mode === 'behind' ? each : []), ['all', Object.values(faultsOf(server))] as const]
    for (const [name, faults] of all)
      t.test(`${server.name}: a history under faults of the cache (${mode}, ${name})`, async (t) => {
        const history = await makeHistory({
          ...{ url: postgres.url, processes: 3, operations: isLong ? 60_000 : 8_000, fast: true },
          // With writeBehind, other processes may miss saves for a while after the cache has lost them.
          ...{ cache: cacheOf(server, mode), fault: disturb(faults), seesAll: mode === 'through' },
        })
        t.strictSame([history.violations, history.errors], [[], []])
        t.not(history.faults, 0)
        t.comment(`${String(history.faults)} faults, ${String(history.operations)} operations`)
      })
  }

t.test('a memcached that is far too small loses copies, and nothing else', async (t) => {
  const server = await startMemcached('-m', '1', '-I', '512k')
  t.teardown(() => server.stop())
  const cache = server.open({ ...PATIENT, maxValueBytes: 400_000 })
  const memory = memoryStore()
  const cold = () => writeThrough(memory, cache, { secrets })
  const store = cold()
  const results: string[] = []
  t.teardown(onSessionEvent('copyRead', ({ result }) => results.push(result)))
  const sessions = []
  for (let index = 0; index < 100; index += 1)
    sessions.push(
      await saveSession(sessionSet('large', randomBytes(50_000).toString('hex'))(buildSession(store))),
    )
  await delay(500)
  for (const session of sessions)
    t.strictSame((await loadSession(cold(), sessionToken(session)))?.store.toJS(), session.store.toJS())
  t.ok(results.includes('missing'))
  await cache.close()
})

t.test('Redis: a client of a cluster works too', async (t) => {
  const server = await startRedis('--cluster-enabled', 'yes')
  t.teardown(() => server.stop())
  const node = createClient({ url: `redis://127.0.0.1:${String(server.port)}` })
  await node.connect()
  await node.sendCommand(['cluster', 'addslotsrange', '0', '16383'])
  while (!(await node.sendCommand<string>(['cluster', 'info'])).includes('cluster_state:ok')) await delay(50)
  node.destroy()
  const cache = redisCache(
    () => createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${String(server.port)}` }] }),
    PATIENT,
  )
  const keys = Array.from({ length: 20 }, (_, index) => `key${String(index)}`)
  await right(cache.set(keys.map((key) => item(key))))
  await right(cache.drop(keys.slice(10)))
  t.strictSame(
    (await valuesOf(cache, ...keys)).map((value) => value?.length),
    [...Array.from({ length: 10 }, () => 10), ...Array.from({ length: 10 }, () => undefined)],
  )
  await cache.close()
})

t.test('a client that its program closed, or that cannot be made, is an error of the command', async (t) => {
  const [redis] = servers as [CacheServer]
  const made: { destroy: () => void }[] = []
  const cache = redisCache(() => {
    const client = createClient({ url: `redis://127.0.0.1:${String(redis.port)}` })
    made.push(client)
    return client
  }, PATIENT)
  await right(cache.set([item('a')]))
  made[0]?.destroy()
  t.equal(await kindOf(cache.get(['a'])()), 'unavailable')
  t.equal((await valuesOf(cache, 'a'))[0]?.length, 10)
  t.equal(made.length, 2, 'a new client was made')
  await cache.close()
  const impossible = memcachedCache(() => new MemcacheClient({ server: 'no port' }), PATIENT)
  t.equal(await kindOf(impossible.get(['a'])()), 'unavailable')
  await impossible.close()
  const never = redisCache(() => {
    throw new Error('no client')
  })
  t.equal(await kindOf(never.get(['a'])()), 'unavailable')
  await never.close()
})

t.test('Redis: a client that is given up while it connects leaves no connection', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const slow = (_: string, __: object, done: (error: null, address: string, family: number) => void) =>
    void setTimeout(() => done(null, '127.0.0.1', 4), 300)
  const socket = { host: 'redis.example', port: server.port, lookup: slow as never, autoSelectFamily: false }
  const cache = redisCache(() => createClient({ socket }), { timeoutMs: 50 })
  t.equal(await kindOf(cache.get(['a'])()), 'timeout')
  await cache.close()
  await delay(1_000)
  const node = createClient({ url: `redis://127.0.0.1:${String(server.port)}` })
  await node.connect()
  t.equal((await node.sendCommand<string>(['client', 'list'])).trim().split('\n').length, 1, 'the own one')
  node.destroy()
})

t.test('Redis: a client that is given up while it connects again leaves no connection', async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const url = `redis://127.0.0.1:${String(server.port)}`
  let closed: Promise<unknown> | undefined
  const cache = redisCache(() => {
    const client = createClient({ url })
    client.on('reconnecting', () => {
      closed ??= cache.close()
    })
    return client
  }, PATIENT)
  await right(cache.set([item('a')]))
  const node = createClient({ url })
  await node.connect()
  await node.sendCommand(['client', 'kill', 'type', 'normal', 'skipme', 'yes'])
  while (closed === undefined) await delay(10)
  await closed
  await delay(1_000)
  t.equal((await node.sendCommand<string>(['client', 'list'])).trim().split('\n').length, 1, 'the own one')
  node.destroy()
})

t.test('a server that is no cache is an error of the command', async (t) => {
  const cache = redisCache(() => createClient({ url: `redis://127.0.0.1:${String(postgres.port)}` }), {
    timeoutMs: 300,
  })
  t.not(await kindOf(cache.get(['a'])()), 'done')
  await cache.close()
})
