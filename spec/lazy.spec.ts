// Tests partially loaded sessions: their cost, the same results as for fully loaded sessions, and the cache. The laws
// of partial loading run on every store (lib/testing/partial-loading-laws.ts).

import fc from 'fast-check'
import t from 'tap'
import type { Param, Query } from '../lib/db/database.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { fetchHandler as sessionHandler } from '../lib/http/fetch.js'
import {
  buildSession,
  type Database,
  KeyNotLoaded,
  loadCurrentKeys,
  loadKeys,
  loadSession,
  refreshSession,
  type Session,
  type SessionStore,
  saveSession,
  sessionDel,
  sessionRef,
  sessionSet,
  sessionToken,
  sessionUpdate,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { memoryStore } from '../lib/store/memory.js'
import { counting, rowsOf } from './support/databases.js'
import { fast, freshSchema, right } from './support/stores.js'

const inner = pgliteDatabase()
t.teardown(() => right(inner.close))
const { database: counted, events } = counting(inner)

/** The statements that were sent, with their parameters. */
const sent: { readonly query: Query; readonly params: readonly Param[] }[] = []
const database: Database = {
  ...counted,
  query: (query, params) => {
    sent.push({ query, params })
    return counted.query(query, params)
  },
}

const names = () => events.splice(0).map(({ query }) => query.name)
const count = (key: string, by = 1) => sessionUpdate(key, (n) => Number(n) + by, 0)
const present = (session: Session | undefined): Session => session ?? (t.fail('it is not there') as never)
const lazily = async (session: Session, ...keys: readonly string[]): Promise<Session> =>
  present(await loadSession(session.handle, sessionToken(session), { keys }))
const whole = async (session: Session): Promise<Session> =>
  present(await loadSession(session.handle, sessionToken(session)))

const filled = (store: SessionStore, size: number): Promise<Session> => {
  const keys = Array.from({ length: size }, (_, index) => `key ${String(index)}`)
  return saveSession(keys.reduce((session, key) => sessionSet(key, { key })(session), buildSession(store)))
}

/** Returns the number of rows of `entry` that the last statement read, according to its plan. */
const rowsRead = async (change = (params: readonly Param[]) => params): Promise<number> => {
  const { query, params } = sent.at(-1) ?? (t.fail('nothing was sent') as never)
  const text = `explain (analyze, format json) ${query.text}`
  const [row] = await right(inner.query({ name: 'explain', text }, change(params)))
  const plans = row?.['QUERY PLAN'] as readonly { readonly Plan: Plan }[] | undefined
  return looked(plans?.[0]?.Plan ?? {})
}

interface Plan {
  readonly 'Relation Name'?: string
  readonly 'Actual Rows'?: number
  readonly 'Actual Loops'?: number
  readonly 'Rows Removed by Filter'?: number
  readonly Plans?: readonly Plan[]
}

const looked = (plan: Plan): number => {
  const { 'Actual Rows': rows = 0, 'Actual Loops': loops = 1, 'Rows Removed by Filter': removed = 0 } = plan
  const here = plan['Relation Name'] === 'entry' ? (rows + removed) * loops : 0
  return (plan.Plans ?? []).reduce((sum, inside) => sum + looked(inside), here)
}

for (const [name, layered] of [
  ['as it is', (store: SessionStore) => store],
  ['batched and remembered', fast],
] as const)
  t.test(`of 10,000 entries the asked ones are read (${name})`, async (t) => {
    const schema = freshSchema()
    const store = layered(sessionStore(database, { schema }))
    const session = await filled(store, 10_000)
    await rowsOf(inner, `analyze ${schema}.entry`)
    // The other store may have the session in its cache.
    const other = layered(sessionStore(database, { schema }))
    const told = (): number => {
      const [row] = events.splice(0).at(-1)?.rows ?? []
      const text = row?.['entries'] ?? row?.['changes']
      return typeof text === 'string' ? Object.keys(JSON.parse(text) as object).length : 0
    }
    names()
    let mine = present(
      await loadSession(other, sessionToken(session), { keys: ['key 7', 'key 9999', 'none'] }),
    )
    t.strictSame([mine.store.size, told()], [2, 2])
    t.ok((await rowsRead()) <= 6, `the load looked at ${String(await rowsRead())} rows`)
    mine = await loadKeys('key 1')(mine)
    t.strictSame([mine.store.size, told()], [3, 1])
    t.ok((await rowsRead()) <= 7, `fetching looked at ${String(await rowsRead())} rows`)
    await saveSession(sessionSet('key 2', 'elsewhere')(await lazily(session, 'key 7')))
    names()
    mine = await saveSession(sessionSet('key 3', 'here')(mine))
    t.strictSame([mine.store.size, told()], [4, 0], 'nothing that it knows was changed')
    t.strictSame([...mine.store.keys()].toSorted(), ['key 1', 'key 3', 'key 7', 'key 9999'])
    mine = await saveSession(count('key 4')(sessionSet('key 4', 1)(await lazily(mine, 'key 4'))))
    await saveSession(sessionSet('key 7', 'elsewhere')(await lazily(session)))
    names()
    await saveSession(count('visits')(await lazily(session, 'key 1')))
    t.strictSame(
      events
        .splice(0)
        .map(({ query }) => query.name)
        .filter((name) => name.startsWith('session.')),
      ['session.loadKeys', 'session.lock', 'session.changesOfKeys', 'session.saveKeys'],
      'an update of what was not read looks before it writes',
    )
    const all = await whole(session)
    t.equal(all.store.size, 10_001)
    t.strictSame(
      ['key 2', 'key 3', 'key 4', 'key 7'].map((key) => all.store.get(key)),
      ['elsewhere', 'here', 2, 'elsewhere'],
    )
  })

t.test('a save of one entry, and a refresh, look at none of the 10,000 others', async (t) => {
  const schema = freshSchema()
  let saved = await filled(sessionStore(database, { schema }), 10_000)
  await rowsOf(inner, `analyze ${schema}.entry`)
  const saveNext = async (statement: string, other: string): Promise<number> => {
    saved = await saveSession(sessionSet('key 2', other)(saved))
    const { revision, versionTag: mark } =
      saved.snapshot._tag === 'Some' ? saved.snapshot.value : (t.fail('it was not saved') as never)
    t.equal(sent.at(-1)?.query.name, statement)
    // Runs the statement again, as another save of the current revision.
    const next = (params: readonly Param[]) =>
      params.with(3, mark.replaceAll(/./g, other)).with(4, revision).with(5, mark)
    t.equal(await rowsRead(next), 0, statement)
    saved = await refreshSession(saved)
    return revision + 1
  }
  let revision = await saveNext('session.save', '4')
  // From this revision on, a save may have to delete tombstones.
  while (revision < 192) {
    saved = await saveSession(sessionSet('key 2', revision)(saved))
    revision += 1
  }
  revision = await saveNext('session.saveFull', '6')
  const mark = '6'.repeat(16)
  // The base revision is found, although the previous statement has made another revision.
  t.equal(await rowsRead((params) => params.with(3, revision).with(4, mark)), 0)
})

t.test('lazy loads that come together share a statement, and each gets what it asked for', async (t) => {
  const schema = freshSchema()
  const makers = Array.from({ length: 12 }, () => sessionStore(database, { schema }))
  const store = fast(makers[0] as SessionStore)
  const odd = ['quote " backslash \\ brace } { comma , null NULL', ' ', '', '\u{1F600}', 'x'.repeat(1024)]
  const sessions = await Promise.all(
    makers.map((_, index) =>
      saveSession(odd.reduce((session, key) => sessionSet(key, index)(session), buildSession(store))),
    ),
  )
  const cold = fast(makers[1] as SessionStore)
  names()
  const tokens = sessions.map((session) => sessionToken(session))
  const loaded = await Promise.all(
    tokens.map((token, index) => loadSession(cold, token, { keys: [odd[index % odd.length] ?? '', 'none'] })),
  )
  t.strictSame(
    names().filter((name) => !name.startsWith('schema.')),
    ['batch.loadKeys'],
  )
  for (const [index, session] of loaded.entries()) {
    t.strictSame(session?.store.toObject(), { [odd[index % odd.length] ?? '']: index })
    t.throws(() => sessionRef(odd[(index + 1) % odd.length] ?? '')(present(session)), KeyNotLoaded)
  }
  await Promise.all(tokens.map((token) => loadSession(cold, token)))
  names()
  const warm = await Promise.all(
    tokens.map((token, index) => loadSession(cold, token, { keys: index % 2 === 0 ? odd : [] })),
  )
  t.strictSame(
    warm.map((session) => session?.store.size),
    tokens.map((_, index) => (index % 2 === 0 ? odd.length : 0)),
  )
  t.strictSame(
    events.map(({ rows = [] }) => rows),
    [[]],
    'what is remembered whole gives no row for some keys',
  )
  const [some, all, unknown] = await Promise.all([
    loadSession(cold, tokens[0] ?? '', { keys: [] }),
    loadSession(cold, tokens[1] ?? ''),
    loadSession(cold, `${String(tokens[2]).slice(0, -43)}${'A'.repeat(43)}`, { keys: [] }),
  ])
  t.strictSame([some?.store.size, all?.store.size, unknown], [0, odd.length, undefined])
})

t.test('what is known of some keys is not remembered as if it were all', async (t) => {
  const schema = freshSchema()
  const [here, there] = [fast(sessionStore(database, { schema })), fast(sessionStore(database, { schema }))]
  const session = await filled(there, 5)
  const token = sessionToken(session)
  const read = async (keys?: readonly string[]) => present(await loadSession(here, token, { keys }))
  let mine = await read(['key 1'])
  mine = await saveSession(sessionSet('new', 1)(mine))
  await saveSession(count('key 4')(sessionSet('key 4', 1)(await refreshSession(mine))))
  t.equal((await read()).store.size, 6)
  await saveSession(sessionDel('key 0')(await read(['key 2'])))
  t.equal((await read()).store.size, 5, 'the whole one that is remembered is as old as it was')
  await saveSession(sessionDel('key 1')(present(await loadSession(there, token))))
  t.strictSame((await read(['key 1', 'new'])).store.toObject(), { new: 1 })
  t.strictSame([...(await read()).store.keys()].toSorted(), ['key 2', 'key 3', 'key 4', 'new'])
})

type Step =
  | { readonly do: 'load'; readonly keys: readonly string[] }
  | { readonly do: 'fetch' | 'ref' | 'del' | 'update'; readonly key: string }
  | { readonly do: 'set'; readonly key: string; readonly value: number }
  | { readonly do: 'save' | 'refresh' }

const key = fc.constantFrom('a', 'b', 'c', 'd')
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('load' as const), keys: fc.uniqueArray(key) }),
  fc.record({
    do: fc.constantFrom('fetch' as const, 'ref' as const, 'del' as const, 'update' as const),
    key,
  }),
  fc.record({ do: fc.constant('set' as const), key, value: fc.integer({ min: 0, max: 3 }) }),
  fc.record({ do: fc.constantFrom('save' as const, 'refresh' as const) }),
)
const script = fc.array(fc.tuple(fc.constantFrom(0, 1), step), { maxLength: 30 })

const seen = (session: Session, key: string): unknown => {
  try {
    return sessionRef(key, 'none')(session)
  } catch (error) {
    if (error instanceof KeyNotLoaded) return 'not loaded'
    throw error
  }
}

const edited = (session: Session, step: Step): Session => {
  if (step.do === 'set') return sessionSet(step.key, step.value)(session)
  if (step.do === 'del') return sessionDel(step.key)(session)
  return step.do === 'update' ? count(step.key, 10)(session) : session
}

/** Applies one step to the partially loaded session and to the fully loaded session. */
const taken = async ([some, all]: Pair, step: Step): Promise<Pair> => {
  if (step.do === 'load') return [await lazily(some, ...step.keys), await whole(all)]
  if (step.do === 'save') return [await saveSession(some), await saveSession(all)]
  if (step.do === 'refresh') return [await refreshSession(some), await refreshSession(all)]
  if (step.do !== 'fetch') {
    // A fully loaded session ignores an edit without a change. A partially loaded session would store it as a blind
    // write.
    const changed = edited(all, step)
    return changed === all ? [some, all] : [edited(some, step), changed]
  }
  const fetched = await loadKeys(step.key)(some)
  // A load of further keys also reads the saves of others. If no key was missing, nothing was read.
  return [fetched, fetched === some ? all : await refreshSession(all)]
}

type Pair = readonly [Session, Session]

const sameAsWhole = (open: () => readonly [SessionStore, SessionStore]) =>
  fc.asyncProperty(script, async (steps) => {
    const [left, right] = open()
    const built = (store: SessionStore) =>
      saveSession(sessionSet('a', 1)(sessionSet('b', 2)(buildSession(store))))
    const [some, all] = [await built(left), await built(right)]
    const requests: Pair[] = [
      [await lazily(some, 'a'), await whole(all)],
      [await lazily(some), await whole(all)],
    ]
    for (const [who, step] of steps) {
      const pair = await taken(requests[who] as Pair, step)
      requests[who] = pair
      for (const key of 'abcd') {
        const [mine, theirs] = [seen(pair[0], key), seen(pair[1], key)]
        if (mine !== 'not loaded' && mine !== theirs)
          throw new Error(`${key} is ${String(mine)}, not ${String(theirs)}, after ${step.do}`)
      }
    }
    const [mine, theirs] = [(await whole(some)).store.toObject(), (await whole(all)).store.toObject()]
    if (!isSame(mine, theirs)) throw new Error(`${JSON.stringify(mine)}, not ${JSON.stringify(theirs)}`)
  })

const isSame = (one: object, other: object): boolean =>
  JSON.stringify(Object.entries(one).sort()) === JSON.stringify(Object.entries(other).sort())

t.test('whatever two requests do to it, it is as if they had loaded all (in memory)', async () => {
  const open = () => [memoryStore(), memoryStore()] as const
  await fc.assert(sameAsWhole(open), { numRuns: 500 })
})

t.test('whatever two requests do to it, it is as if they had loaded all (in a database)', async () => {
  const [plain, quick] = [
    sessionStore(inner, { schema: freshSchema() }),
    fast(sessionStore(inner, { schema: freshSchema() })),
  ]
  await fc.assert(
    sameAsWhole(() => [plain, plain]),
    { numRuns: 60 },
  )
  await fc.assert(
    sameAsWhole(() => [quick, plain]),
    { numRuns: 60 },
  )
})

t.test('a door reads the keys that each request needs, and a handler fetches the others', async (t) => {
  const store = memoryStore()
  const session = await saveSession(
    sessionSet('user', 'ada')(sessionSet('basket', ['tea'])(buildSession(store))),
  )
  const headers = { cookie: `session=${sessionToken(session)}` }
  const asked = async (...keys: readonly string[]) => {
    const handler = sessionHandler({ store, keys: ['user'], onError: () => ({ status: 500, body: '' }) })(
      async () => {
        const current = await loadCurrentKeys(...keys)
        return Response.json([sessionRef('user')(current), sessionRef('basket')(current)])
      },
    )
    return handler(new Request('http://localhost/', { headers }))
  }
  t.strictSame(await (await asked('basket')).json(), ['ada', ['tea']])
  t.equal((await asked()).status, 500)
})
