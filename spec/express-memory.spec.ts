// Compares keyrow's store for express-session with express-session's MemoryStore, by random operations. Both behave
// alike, except for the differences in the table of docs/frameworks.md.

import { isDeepStrictEqual } from 'node:util'
import session from 'express-session'
import fc from 'fast-check'
import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { expressSessionStore } from '../lib/express-session/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { quietPools } from './support/databases.js'
import { cookieFor, type Data, movableClock, type PromisedStore, promised } from './support/express-stores.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, freshSchema } from './support/stores.js'

const MINUTE = 60_000

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

const ours = () => {
  const schema = freshSchema()
  const keyrow = sessionStore(database, { schema, idleMs: 1e10, absoluteMs: 1e11, touchFraction: 0 })
  return promised(expressSessionStore(keyrow, { database, schema }))
}

const sid = fc.nat(2)
const values = fc.dictionary(
  fc.constantFrom('a', 'b', 'c', 'toString', 'ключ'),
  fc.jsonValue({ maxDepth: 2 }),
)
const maxAge = fc.option(fc.integer({ min: 1, max: 10 * MINUTE }), { nil: undefined })

/** An action of an application, through `req.session` or through the store. */
const step = fc.oneof(
  fc.record({ op: fc.constant('make'), sid, values, maxAge }),
  fc.record({
    op: fc.constant('request'),
    sid,
    values,
    deleted: fc.constantFrom('a', 'b', 'c'),
    touched: fc.boolean(),
  }),
  fc.record({ op: fc.constant('again'), sid, values, touched: fc.boolean() }),
  fc.record({ op: fc.constant('touch'), sid }),
  fc.record({ op: fc.constant('lifetime'), sid, maxAge }),
  fc.record({ op: fc.constant('touchPast'), sid, maxAge }),
  fc.record({ op: fc.constant('regenerate'), sid, values }),
  fc.record({ op: fc.constant('destroy'), sid }),
  fc.record({ op: fc.constant('elapse'), ms: fc.integer({ min: 1, max: 8 * MINUTE }) }),
  { weight: 1, arbitrary: fc.constant({ op: 'clear' as const }) },
)
type Step = typeof step extends fc.Arbitrary<infer A> ? A : never

type Held = Awaited<ReturnType<PromisedStore['request']>>

/** One of the two stores, with the `req.session` objects that it has returned. */
const application = (store: PromisedStore, run: number) => {
  const names = ['0', '1', '2']
  const held = new Map<string, Held>()
  let renewed = 0
  const nameOf = (n: number): string => `${String(run)} ${names[n] ?? ''}`
  // An ended sid is not used again, because keyrow would reject it.
  const retire = (n: number): void => {
    renewed += 1
    names[n] = `renewed ${String(renewed)}`
  }
  const save = async (name: string, change: (data: NonNullable<Held>) => void): Promise<void> => {
    const data = held.get(name) ?? (await store.request(name))
    held.set(name, data)
    if (data === undefined) return
    change(data)
    await store.set(name, data)
  }
  const steps: {
    readonly [Op in Step['op']]: (step: Extract<Step, { readonly op: Op }>) => Promise<unknown>
  } = {
    make: async ({ sid, values, maxAge }) => {
      held.delete(nameOf(sid))
      await store.set(nameOf(sid), { ...values, cookie: cookieFor(maxAge) })
    },
    request: async ({ sid, values, deleted, touched }) => {
      held.delete(nameOf(sid))
      await save(nameOf(sid), (data) => {
        Object.assign(data, values)
        Reflect.deleteProperty(data, deleted)
        if (touched) data.touch()
      })
    },
    again: ({ sid, values, touched }) =>
      save(nameOf(sid), (data) => {
        Object.assign(data, values)
        if (touched) data.touch()
      }),
    touch: async ({ sid }) => {
      const data = held.get(nameOf(sid)) ?? (await store.request(nameOf(sid)))
      held.set(nameOf(sid), data)
      if (data !== undefined) await store.touch(nameOf(sid), data.touch())
    },
    lifetime: ({ sid, maxAge }) =>
      save(nameOf(sid), (data) => {
        data.cookie.maxAge = maxAge
      }),
    touchPast: async ({ sid, maxAge }) => {
      held.delete(nameOf(sid))
      await store.touch(nameOf(sid), { cookie: cookieFor(maxAge), not: 'stored' })
    },
    regenerate: async ({ sid, values }) => {
      await store.destroy(nameOf(sid))
      retire(sid)
      await store.set(nameOf(sid), { ...values, cookie: cookieFor(MINUTE) })
    },
    destroy: async ({ sid }) => {
      await store.destroy(nameOf(sid))
      const found = await store.get(nameOf(sid))
      retire(sid)
      return found
    },
    elapse: async () => Promise.resolve(),
    clear: async () => {
      await store.clear()
      for (const n of names.keys()) retire(n)
    },
  }
  const look = async () => {
    const found = await Promise.all(names.map((_, n) => store.get(nameOf(n))))
    const all = (await store.all()).map(plain)
    return { found: found.map(plain), all: all.map(sortable).sort(), length: await store.length() }
  }
  return {
    do: (step: Step) => (steps[step.op] as (step: Step) => Promise<unknown>)(step),
    look,
  }
}

const plain = (data: Data | null | undefined): unknown =>
  data === undefined || data === null ? undefined : JSON.parse(JSON.stringify(data))

/** Converts a value to text, with its members in sorted order. */
const sortable = (value: unknown): string =>
  JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )

t.test('whatever is done, in whatever order, it has what the MemoryStore has', async (t) => {
  const store = ours()
  let run = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 14 }), async (steps) => {
      run += 1
      const { elapse, restore } = movableClock()
      try {
        await store.clear()
        const pair = [application(store, run), application(promised(new session.MemoryStore()), run)] as const
        for (const step of steps) {
          if (step.op === 'elapse') elapse(step.ms)
          for (const one of pair) await one.do(step)
          const [mine, theirs] = [await pair[0].look(), await pair[1].look()]
          if (!isDeepStrictEqual(mine, theirs))
            throw new Error(`${JSON.stringify(mine)}\nfor\n${JSON.stringify(theirs)}`)
        }
      } finally {
        restore()
      }
    }),
    { numRuns: Number(process.env['COUNT'] ?? 60) },
  )
  t.equal(run >= 60, true)
})
