// Tests each line of the table in docs/frameworks.md with the differences between stores of express-session. The stores
// are keyrow's, express-session's MemoryStore, and connect-pg-simple.

import { readFile } from 'node:fs/promises'
import connectPg from 'connect-pg-simple'
import session from 'express-session'
import pg from 'pg'
import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { expressSessionStore } from '../lib/express-session/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { quietPools, rowsOf } from './support/databases.js'
import { cookieFor, movableClock, type PromisedStore, promised } from './support/express-stores.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
const application_name = freshSchema()
const pool = new pg.Pool({ connectionString: url, application_name })
t.teardown(async () => {
  await pool.end()
  // `end` does not wait for the connections, and the pool throws if the server ends one of them first.
  const left = `select pid from pg_stat_activity where application_name = '${application_name}'`
  while ((await rowsOf(database, left)).length > 0) await new Promise((resolve) => setTimeout(resolve, 5))
  await dropSchemas(database)
  await database.close()
  await stop()
})

const HOUR = 3_600_000
const schema = freshSchema()
const oldSchema = freshSchema()
await rowsOf(database, `create schema ${oldSchema}`)
const PgStore = connectPg(session)
const keyrow = sessionStore(database, { schema, idleMs: 2 * HOUR, absoluteMs: 20 * HOUR })
const stores = {
  memory: promised(new session.MemoryStore()),
  pg: promised(
    new PgStore({ pool, schemaName: oldSchema, createTableIfMissing: true, pruneSessionInterval: false }),
  ),
  ours: promised(expressSessionStore(keyrow, { database, schema })),
}

const cookie = { originalMaxAge: null }
const nested = (levels: number): unknown => (levels === 0 ? 1 : { a: nested(levels - 1) })

/** Stores `data`, and returns the session from the store as text, without the cookie. */
const given =
  (data: object) =>
  async (store: PromisedStore, sid: string): Promise<unknown> => {
    await store.set(sid, { cookie, ...data })
    return JSON.stringify(await store.get(sid), (key, value: unknown) =>
      key === 'cookie' ? undefined : value,
    )
  }

const REFUSED = 'refused'

interface Line {
  readonly name: string
  readonly run: (store: PromisedStore, sid: string) => Promise<unknown>
  readonly memory: unknown
  /** `undefined` if connect-pg-simple does not have the operation. */
  readonly pg?: unknown
  readonly ours: unknown
}

const lines: readonly Line[] = [
  {
    name: 'the order of members',
    run: given({ b: 1, a: { bb: 1, c: 2 } }),
    memory: '{"b":1,"a":{"bb":1,"c":2}}',
    pg: '{"b":1,"a":{"bb":1,"c":2}}',
    ours: '{"a":{"c":2,"bb":1},"b":1}',
  },
  {
    name: 'an object without `cookie`',
    run: async (store, sid) => {
      await store.set(sid, { n: 1 })
      return JSON.stringify(await store.get(sid))
    },
    memory: '{"n":1}',
    pg: '{"n":1}',
    ours: '{"cookie":{"originalMaxAge":null},"n":1}',
  },
  {
    name: 'an object without `cookie`, listed',
    run: async (store, sid) => {
      const before = await store.length()
      await store.set(sid, { n: 1 })
      return (await store.length()) - before
    },
    memory: 1,
    ours: 0,
  },
  {
    name: 'the members of what `get` gives',
    run: async (store, sid) => {
      await store.set(sid, { cookie })
      return Object.keys((await store.get(sid)) ?? {})
    },
    memory: ['cookie'],
    pg: ['cookie'],
    ours: ['cookie', 'keyrow:known'],
  },
  {
    name: 'a member of its own named `__proto__`',
    run: given(Object.defineProperty({ n: 1 }, '__proto__', { value: 1, enumerable: true })),
    memory: '{"n":1,"__proto__":1}',
    pg: '{"n":1,"__proto__":1}',
    ours: '{"n":1}',
  },
  {
    name: 'a member whose name begins with `keyrow:`',
    run: given({ 'keyrow:x': 1 }),
    memory: '{"keyrow:x":1}',
    pg: '{"keyrow:x":1}',
    ours: REFUSED,
  },
  {
    name: 'U+0000 in a text or a name',
    run: given({ text: '\u0000' }),
    memory: '{"text":"\\u0000"}',
    pg: '{"text":"\\u0000"}',
    ours: REFUSED,
  },
  {
    name: 'a lone surrogate in a text or a name',
    run: given({ text: '\ud800' }),
    memory: '{"text":"\\ud800"}',
    pg: '{"text":"\\ud800"}',
    ours: REFUSED,
  },
  {
    name: 'a name of more than 1,024 bytes',
    run: async (store, sid) => String(await given({ ['k'.repeat(1_025)]: 1 })(store, sid)).length,
    memory: 1_031,
    pg: 1_031,
    ours: REFUSED,
  },
  {
    name: 'a value of more than 500 levels',
    run: async (store, sid) => String(await given({ a: nested(600) })(store, sid)).length,
    memory: 3_607,
    pg: 3_607,
    ours: REFUSED,
  },
  {
    name: 'a value of more than 16 Mi characters',
    run: async (store, sid) => String(await given({ a: 'x'.repeat(2 ** 24) })(store, sid)).length,
    memory: 2 ** 24 + 8,
    pg: 2 ** 24 + 8,
    ours: REFUSED,
  },
  {
    name: 'a session that is no object',
    run: async (store, sid) => {
      await store.set(sid, 'text' as never)
      return store.get(sid)
    },
    memory: 'text',
    pg: REFUSED,
    ours: REFUSED,
  },
  {
    name: 'two `req.session` of one session that change different members',
    run: async (store, sid) => {
      await store.set(sid, { cookie: cookieFor() })
      const [first, second] = [await store.request(sid), await store.request(sid)]
      await store.set(sid, Object.assign(first ?? {}, { a: 1 }))
      await store.set(sid, Object.assign(second ?? {}, { b: 1 }))
      const found = await store.get(sid)
      return [found?.['a'], found?.['b']]
    },
    memory: [undefined, 1],
    pg: [undefined, 1],
    ours: [1, 1],
  },
  {
    name: 'a save after `destroy`',
    run: async (store, sid) => {
      await store.set(sid, { cookie })
      await store.destroy(sid)
      return given({ n: 1 })(store, sid)
    },
    memory: '{"n":1}',
    pg: '{"n":1}',
    ours: undefined,
  },
  {
    name: 'a save after `clear`',
    run: async (store, sid) => {
      await store.set(sid, { cookie })
      await store.clear()
      return given({ n: 1 })(store, sid)
    },
    memory: '{"n":1}',
    ours: undefined,
  },
  {
    name: 'what `all` gives',
    run: async (store) => {
      await store.clear()
      return Array.isArray(await store.allAsGiven())
    },
    memory: false,
    ours: true,
  },
  {
    name: 'a touch by less than `touchFraction` of `maxAge`',
    run: async (store, sid) => {
      const { elapse, restore } = movableClock()
      try {
        await store.set(sid, { cookie: cookieFor(HOUR) })
        const end = async () => Number((await store.request(sid))?.cookie.maxAge) + Date.now()
        const before = await end()
        elapse(HOUR / 20)
        await store.touch(sid, { cookie: cookieFor(HOUR) })
        return (await end()) - before
      } finally {
        restore()
      }
    },
    memory: HOUR / 20,
    ours: 0,
  },
  {
    name: "a session unused for the store's `idleMs`",
    run: async (store, sid) => {
      await store.set(sid, { cookie, n: 1 })
      await age(database, schema, 3 * HOUR)
      return (await store.get(sid))?.['n']
    },
    memory: 1,
    ours: undefined,
  },
]

const measured = async (store: PromisedStore, { run }: Line, sid: string): Promise<unknown> => {
  try {
    return await run(store, sid)
  } catch {
    return REFUSED
  }
}

for (const line of lines)
  t.test(line.name, async (t) => {
    const sid = line.name
    t.strictSame(await measured(stores.memory, line, sid), line.memory, 'the MemoryStore')
    if ('pg' in line) t.strictSame(await measured(stores.pg, line, sid), line.pg, 'connect-pg-simple')
    t.strictSame(await measured(stores.ours, line, sid), line.ours, 'this store')
  })

t.test('the table in docs/frameworks.md has these lines and no others', async (t) => {
  const page = await readFile(new URL('../docs/frameworks.md', import.meta.url), 'utf8')
  const [, table = ''] = page.split('| what | a store of JSON text | this store |\n|---|---|---|\n')
  const rows = table
    .split('\n\n')[0]
    ?.split('\n')
    .map((row) => row.split(' | ')[0]?.replace(/^[|] /, ''))
  t.strictSame(
    rows,
    lines.map(({ name }) => name),
  )
})
