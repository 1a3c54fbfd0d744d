// Tests late saves and copies under faults of every part: of the processes, of the cache, of PostgreSQL, and of the
// connections between them. Each kind strikes alone, then all strike at random. With LONG=1 that takes ten minutes. Also
// shows that the history checker finds stores that break the protocol. `npm run spec:caches` runs this file.

import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { createClient } from 'redis'
import t, { type Test } from 'tap'
import type { Cache } from '../../lib/cache/contract.js'
import type { SessionId } from '../../lib/core/token.js'
import { isLong } from '../support/at-length.js'
import { type CacheServer, startMemcached, startRedis } from '../support/cache-servers.js'
import { LONGEST_STOP_MS } from '../support/history.js'
import {
  type History,
  type HistoryOptions,
  makeHistory,
  microseconds,
  type Scene,
} from '../support/history-run.js'
import { startPostgres } from '../support/postgres-server.js'
import { startProxy } from '../support/proxy.js'

const postgres = await startPostgres()
const postgresProxy = await startProxy(postgres.url)
const redis = await startRedis()
const servers = [redis, await startMemcached()]
const proxies = new Map<CacheServer, Awaited<ReturnType<typeof startProxy>>>()
for (const server of servers) proxies.set(server, await startProxy(addressOf(server)))
t.teardown(async () => {
  for (const proxy of [postgresProxy, ...proxies.values()]) await proxy.close()
  for (const server of servers) await server.stop()
  await postgres.stop()
})

function addressOf({ port }: Pick<CacheServer, 'port'>): string {
  return `tcp://127.0.0.1:${String(port)}`
}
const proxyOf = (server: CacheServer) => proxies.get(server) as Awaited<ReturnType<typeof startProxy>>
const portOf = (server: CacheServer): number => Number(new URL(proxyOf(server).url).port)
const between = (least: number, most: number): number => least + Math.random() * (most - least)
const oneOf = <A>(list: readonly A[]): A => list[Math.floor(Math.random() * list.length)] as A
const headOf = (id: SessionId): string => `head:${id}`

/** A fault. It returns after it is over. */
type Fault = (scene: Scene, cache: Cache) => Promise<void>

/** Runs a task during which heads are lost, or are hidden from some processes. */
const losing =
  (task: Fault): Fault =>
  async (scene, cache) => {
    const from = microseconds()
    await task(scene, cache)
    scene.noteLoss(from)
  }

/** Replaces or deletes the heads of a few sessions. */
const spoiling =
  (spoil: (cache: Cache, id: SessionId, ids: readonly SessionId[]) => Promise<unknown>): Fault =>
  async ({ ids, noteLoss }, cache) => {
    for (let count = 0; count < 5; count += 1) {
      const id = oneOf(ids)
      const from = microseconds()
      await spoil(cache, id, ids)
      noteLoss(from, id)
    }
  }

const headIn = async (cache: Cache, id: SessionId): Promise<Uint8Array | undefined> => {
  const found = await cache.get([headOf(id)])()
  return E.isLeft(found) ? undefined : O.toUndefined(found.right[0] ?? O.none)?.value
}

/** Sets a head to what `change` makes of the head of `from`. */
const setTo = async (
  cache: Cache,
  id: SessionId,
  from: SessionId,
  change: (value: Uint8Array) => Uint8Array = (value) => value,
): Promise<void> => {
  const value = await headIn(cache, from)
  if (value !== undefined) await cache.set([{ key: headOf(id), value: change(value), ttlMs: 60_000 }])()
}

const withFlippedBit = (value: Uint8Array): Uint8Array => {
  const [at, bit] = [Math.floor(Math.random() * value.length), 2 ** Math.floor(Math.random() * 8)]
  return value.with(at, (value[at] ?? 0) ^ bit)
}

/** Faults of values: single heads that are lost. */
const values = {
  'single heads are deleted': spoiling((cache, id) => cache.drop([headOf(id)])()),
  'bits of heads are flipped': spoiling((cache, id) => setTo(cache, id, id, withFlippedBit)),
  'heads are stored under other sessions': spoiling((cache, id, ids) => setTo(cache, id, oneOf(ids))),
}

/** A head that comes back after a while, as from a replica that was behind. */
const old: Fault = async ({ ids, noteLoss }, cache) => {
  const some = ids.slice(0, 5)
  const before = await Promise.all(some.map((id) => headIn(cache, id)))
  const from = microseconds()
  await delay(between(100, 2_000))
  for (const [index, id] of some.entries()) {
    const value = before[index]
    if (value !== undefined) await cache.set([{ key: headOf(id), value, ttlMs: 60_000 }])()
    noteLoss(from, id)
  }
}

const cacheFaults = (server: CacheServer): Readonly<Record<string, Fault>> => ({
  'the cache is killed and started again': losing(async () => {
    await server.kill()
    await delay(between(0, 500))
    await server.start()
  }),
  'the cache is flushed': losing(() => server.flush()),
  'the cache is stopped': losing(async () => {
    server.hang()
    await delay(between(100, LONGEST_STOP_MS / 2))
    server.goOn()
  }),
  'connections to the cache are cut, slow and silent': losing(async () => {
    const proxy = proxyOf(server)
    proxy.disturb({ cut: 0.01, delay: 0.05, delayMs: 200, hole: 0.005 })
    await delay(between(100, 1_000))
    proxy.disturb({})
    proxy.silence()
  }),
  'what is sent to the cache arrives late': losing(async () => {
    const deliver = proxyOf(server).holdUp()
    await delay(between(100, 1_500))
    deliver()
  }),
  ...values,
  'heads are replaced by old ones': old,
})

const storeFaults: Readonly<Record<string, Fault>> = {
  'PostgreSQL is killed': async () => {
    await postgres.kill()
    await postgres.start()
  },
  'connections to PostgreSQL are cut, slow and silent': async () => {
    postgresProxy.disturb({ cut: 0.002, delay: 0.01, delayMs: 100, hole: 0.001 })
    await delay(between(100, 1_000))
    postgresProxy.disturb({})
  },
}

/** Lets faults strike at random, and wakes stopped processes. */
const striking =
  (faults: readonly Fault[], server: CacheServer, pauseMs = 500): NonNullable<HistoryOptions['fault']> =>
  async (isOver, scene) => {
    const cache = server.open({ timeoutMs: 1_000 })
    const waking = wake(isOver, scene)
    let count = 0
    for (;;) {
      await delay(between(pauseMs / 2, pauseMs * 1.5))
      if (isOver()) break
      if (faults.length === 0) continue
      await oneOf(faults)(scene, cache)
      count += 1
    }
    await waking
    await cache.close()
    return count
  }

/** Wakes each process now and then, whether it was stopped or not. */
const wake = async (isOver: () => boolean, { pids }: Scene): Promise<void> => {
  for (const end = Date.now() + 1_200_000; !isOver() && Date.now() < end; ) {
    await delay(between(100, oneOf([300, 300, LONGEST_STOP_MS])))
    for (const pid of pids()) if (Math.random() < 0.7) process.kill(pid, 'SIGCONT')
  }
}

const operations = isLong ? 30_000 : 5_000
const FLUSH_MS = [50, 200, 1_000]

const historyOf = (server: CacheServer, options: Partial<HistoryOptions>): Promise<History> =>
  makeHistory({
    ...{
      url: postgresProxy.url,
      directUrl: postgres.url,
      processes: 3,
      operations,
      fast: true,
      seesAll: false,
    },
    cache: { server, port: portOf(server), mode: 'behind', flushMs: FLUSH_MS },
    ...options,
  })

const told = (t: Test, { faults, deaths, lost, unknown, operations }: History): void => {
  t.comment(
    `${String(operations)} operations, ${String(faults)} faults, ${String(deaths)} dead processes, ` +
      `${String(unknown)} unknown outcomes, ${String(lost)} updates lost`,
  )
}

/** A deadline that a busy machine does not miss. So no process goes beside the heads. */
const PATIENT = 10_000

for (const server of servers) {
  const { name } = server
  const patient: HistoryOptions['cache'] = {
    ...{ server, mode: 'behind', flushMs: FLUSH_MS, timeoutMs: PATIENT },
  }

  t.test(`${name}: processes that die between two steps lose nothing that the cache has`, async (t) => {
    const points = { stop: 0, kill: 1 / 1_000 }
    const history = await historyOf(server, { points, cache: patient })
    t.strictSame([history.violations, history.lost], [[], 0])
    t.not(history.deaths, 0)
    told(t, history)
  })

  t.test(`${name}: processes that stop between two steps for a while do nothing twice`, async (t) => {
    const points = { stop: 1 / 200, kill: 0 }
    const history = await historyOf(server, { points, fault: striking([], server) })
    t.strictSame([history.violations, history.lost, history.errors], [[], 0, []])
    told(t, history)
  })

  t.test(`${name}: a process without the cache loses nothing, and others lose nothing to it`, async (t) => {
    const cache: HistoryOptions['cache'] = { server, mode: 'behind', flushMs: [50, undefined, 500] }
    const history = await historyOf(server, { cache })
    t.strictSame([history.violations, history.lost, history.errors], [[], 0, []])
    told(t, history)
  })

  const alone = { ...cacheFaults(server), ...storeFaults }
  for (const [fault, strike] of Object.entries(alone))
    t.test(`${name}: ${fault}`, async (t) => {
      const history = await historyOf(server, { fault: striking([strike], server) })
      t.strictSame([history.violations, history.lost], [[], 0])
      t.not(history.faults, 0)
      t.ok(
        history.unknown <= (fault in storeFaults ? operations / 10 : 0),
        `${String(history.unknown)} unknown outcomes`,
      )
      told(t, history)
    })

  const minutes = isLong ? 10 : 0
  for (const mode of ['behind', 'through'] as const)
    t.test(`${name}: all faults at random (${mode})`, async (t) => {
      const end = Date.now() + minutes * 60_000
      do {
        const history = await historyOf(server, {
          cache: { server, port: portOf(server), mode, flushMs: FLUSH_MS },
          // A copy is never believed, so all is seen. What is stored is answered, so no process loses it.
          seesAll: mode === 'through',
          points: { stop: 1 / 1_000, kill: 1 / 3_000 },
          fault: striking(Object.values(alone), server, 1_500),
        })
        t.strictSame(history.violations, [])
        t.not(history.faults, 0)
        if (mode === 'through') t.equal(history.lost, 0)
        told(t, history)
      } while (Date.now() < end)
    })
}

t.test('a memcached that is far too small loses heads, and no update of a process that lives', async (t) => {
  const server = await startMemcached('-m', '1', '-I', '512k')
  t.teardown(() => server.stop())
  const fill: Fault = async (_, cache) => {
    for (let count = 0; count < 20; count += 1)
      await cache.set([{ key: `fill${String(Math.random())}`, value: randomBytes(100_000), ttlMs: 60_000 }])()
  }
  const history = await makeHistory({
    ...{ url: postgres.url, processes: 3, operations, fast: true, seesAll: false },
    ...{ cache: { server, mode: 'behind', flushMs: FLUSH_MS }, fault: striking([fill], server, 50) },
  })
  t.strictSame([history.violations, history.lost, history.errors], [[], 0, []])
  told(t, history)
})

t.test('Redis: a replica that is five seconds behind is promoted, again and again', async (t) => {
  let [primary, replica] = [await startRedis(), await startRedis()]
  const server: CacheServer = { ...primary, open: (options) => primary.open(options) }
  const proxy = await startProxy(addressOf(primary))
  proxies.set(server, proxy)
  t.teardown(async () => {
    await primary.stop()
    await replica.stop()
  })
  const ask = async ({ port }: CacheServer, ...command: readonly string[]): Promise<string> => {
    const client = createClient({ url: `redis://127.0.0.1:${String(port)}` })
    await client.connect()
    try {
      return await client.sendCommand<string>([...command])
    } finally {
      client.destroy()
    }
  }
  const follow = async (): Promise<void> => {
    await ask(replica, 'replicaof', '127.0.0.1', String(primary.port))
    while (!(await ask(replica, 'info', 'replication')).includes('master_link_status:up')) await delay(50)
  }
  const promote: Fault = async () => {
    await follow()
    await delay(200)
    await ask(replica, 'replicaof', 'no', 'one')
    await delay(5_000)
    await primary.kill()
    proxy.leadTo(addressOf(replica))
    ;[primary, replica] = [replica, primary]
    await replica.start()
  }
  const history = await historyOf(server, {
    operations: isLong ? 60_000 : 10_000,
    fault: striking([promote], server, 100),
  })
  t.strictSame([history.violations, history.lost, history.errors], [[], 0, []])
  t.not(history.faults, 0)
  told(t, history)
})

const besideHeads = { cache: { server: redis, mode: 'behind', flushMs: [50, undefined, 500] } } as const

/** Stores that break the protocol, and a part of the violations that the checker finds in each. */
const mutants: Readonly<Record<string, readonly ['through' | 'behind', RegExp, Partial<HistoryOptions>?]>> = {
  believed: ['through', /revision fell|list shrank/],
  filled: ['through', /after it had been destroyed/],
  alive: ['behind', /after it had been destroyed/],
  overwritten: ['behind', /revision fell|list shrank/],
  // A process without the cache saves beside the heads.
  unstrict: ['behind', /was lost/, { seesAll: false, ...besideHeads }],
  removed: ['behind', /revision fell|list shrank/],
  undrained: ['behind', /was lost/, { atEnd: () => redis.flush() }],
}

for (const [broken, [mode, violation, options]] of Object.entries(mutants))
  t.test(`the checker finds a store that is broken (${broken})`, async (t) => {
    const { violations } = await makeHistory({
      ...{ url: postgres.url, processes: 3, operations: 6_000, fast: true, broken },
      ...{ cache: { server: redis, mode, timeoutMs: PATIENT, flushMs: FLUSH_MS }, ...options },
    })
    t.ok(
      violations.some((found) => violation.test(found)),
      violations[0] ?? 'no violation',
    )
    t.comment(`${String(violations.length)} violations`)
  })
