// Every read of the library says by itself that it is for the primary (lib/port/primary.ts), and that costs nothing:
// each statement is run once on loaded tables, read, and planned with and without it. What a pooler makes of it is shown
// by slow/pgpool.spec.ts.

import { readdirSync, readFileSync } from 'node:fs'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import t from 'tap'
import { batchedDatabase } from '../lib/combinator/batched-database.js'
import { connectPgSimple } from '../lib/door/express-session.js'
import { postgresDatabase } from '../lib/driver/postgres.js'
import { int8, record, text } from '../lib/index.js'
import type { Database, Param, Query } from '../lib/port/database.js'
import { ON_PRIMARY, ONCE_ON_PRIMARY } from '../lib/port/primary.js'
import type { SessionStore } from '../lib/port/session-store.js'
import {
  buildSession,
  destroySession,
  endSessions,
  loadSession,
  refreshSession,
  rotateSession,
  type Session,
  saveSession,
  sessionFetch,
  sessionFor,
  sessionSet,
  sessionsOf,
  sessionToken,
  sessionUpdate,
} from '../lib/promise.js'
import { noEntries } from '../lib/session/edits.js'
import { freshSaveId } from '../lib/session/token.js'
import { expressListing } from '../lib/sql/express-listing.js'
import {
  clockFigures,
  hazardFigures,
  routeFigures,
  schemaFigures,
  serverFigures,
} from '../lib/sql/figures.js'
import { plainRouteQuery } from '../lib/sql/operator.js'
import { FIRST_ID, operatorOver, type Scope } from '../lib/sql/operator-store.js'
import { quotedSchema } from '../lib/sql/schema-state.js'
import { sessionStore } from '../lib/sql/session-store.js'
import { quietPools, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, fast, freshSchema, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
const schemaName = freshSchema()
const schema = quotedSchema(schemaName)
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

/** By its name, each statement that was run, and its first parameters. */
const seen = new Map<string, { readonly query: Query; readonly params: readonly Param[] }>()

const recorded = (inner: Database): Database => {
  const outer: Database = {
    ...inner,
    query: (query, params) => {
      if (!seen.has(query.name)) seen.set(query.name, { query, params })
      return inner.query(query, params)
    },
    transaction: (body) =>
      inner.transaction((tx) =>
        body(recorded(tx.within === undefined ? tx : { ...tx, within: { ...tx.within, outer } })),
      ),
  }
  return outer
}

const watched = recorded(database)
const notes = record({
  table: `${schemaName}.note`,
  key: 'id',
  columns: { id: int8, owner: int8, title: text },
})
const tags = record({ table: `${schemaName}.tag`, key: 'id', columns: { id: int8, name: text } })
const tagged = record({
  table: `${schemaName}.tagged`,
  key: ['note', 'tag'],
  columns: { note: int8, tag: int8 },
})

/** Ten thousand sessions of three keys, of which some have expired, and as many records, as autovacuum would know them. */
const load = async (): Promise<void> => {
  await right(sessionStore(watched, { schema: schemaName }).prepare)
  await rowsOf(
    database,
    `do $$ begin
       insert into ${schema}.session
       select gen_random_uuid(), sha256(n::text::bytea), null, null, now(), now() + interval '1 hour',
              now() + interval '1 day', 1, decode(lpad(to_hex(n), 16, '0'), 'hex')
       from generate_series(1, 10000) as n;
       update ${schema}.session set expires_at = now() where get_byte(secret_hash, 1) = 0;
       insert into ${schema}.entry
       select id, 'key' || n, '1', 1 from ${schema}.session, generate_series(1, 3) as n;
       insert into ${schema}.listing
       select id, case when get_byte(secret_hash, 0) = 0 then 'ada' end, expires_at from ${schema}.session;
       create table ${schema}.note as
       select n as id, n / 10 as owner, 'title' as title from generate_series(1::int8, 10000) as n;
       alter table ${schema}.note add primary key (id);
       create index on ${schema}.note (owner);
       create table ${schema}.tag as select n as id, 'name' as name from generate_series(1::int8, 1000) as n;
       alter table ${schema}.tag add primary key (id);
       create table ${schema}.tagged as
       select n as note, 1 + n % 1000 as tag from generate_series(1::int8, 10000) as n;
       alter table ${schema}.tagged add primary key (note, tag);
       create table ${schema}.old (sid text primary key, sess json, expire timestamp);
       insert into ${schema}.old select n::text, '{}', now() + interval '1 day' from generate_series(1, 1000) as n;
     end $$`,
  )
  for (const table of ['session', 'entry', 'listing', 'note', 'tag', 'tagged', 'old'])
    await rowsOf(database, `vacuum analyze ${schema}.${table}`)
}

const four = <A>(act: (index: number) => Promise<A>): Promise<A[]> => Promise.all([0, 1, 2, 3].map(act))

const increment = (key: string) => sessionUpdate(key, (n) => Number(n) + 1, 0)

/** Each operation on a session: on whole ones, and on one of which some keys were loaded. */
const useSessions = async (store: SessionStore): Promise<void> => {
  const first = await saveSession(sessionFor('ada')(sessionSet('n', 1)(buildSession(store))))
  const loaded = async (...keys: readonly string[]): Promise<Session> => {
    const session = await loadSession(store, sessionToken(first), keys.length > 0 ? { keys } : {})
    if (session === undefined) throw new Error('it is gone')
    return session
  }
  const [whole, some] = [await loaded(), await loaded('n')]
  await saveSession(sessionSet('other', 1)(first))
  for (const behind of [whole, some]) await saveSession(increment('n')(behind))
  for (const one of [await loaded(), await loaded('n')]) {
    await saveSession(sessionSet('other', 2)(one))
    await saveSession(sessionFor('bob')(one))
    await refreshSession(one)
  }
  await sessionFetch('other')(await loaded('n'))
  await right(store.touch(first.id))
  const before = await loaded()
  await rotateSession(before)
  await rotateSession(before).catch(() => undefined)
  await store.create(first.id, first.token.hash, freshSaveId(), noEntries)()
  await sessionsOf(store, 'bob')
  await destroySession(first)
  await saveSession(sessionFor('eve')(buildSession(store)))
  await endSessions(store, 'eve')
  await right(store.collect(10))
}

/** What the administrator asks, and ends. */
const administer = async (): Promise<void> => {
  const operator = operatorOver(watched, schema)
  await right(serverFigures(watched))
  await right(clockFigures(watched))
  await right(routeFigures(watched))
  await right(hazardFigures(watched, schema))
  await right(schemaFigures(watched, schema))
  await right(operator.sessions(10, undefined))
  const [one] = await right(operator.sessions(10, 'ada'))
  const id = one?.id ?? FIRST_ID
  await right(operator.show(id, true))
  const listing = expressListing(watched, schemaName, () => false)
  await right(listing.all)
  await right(listing.length)
  await right(listing.clear)
  const scopes: readonly Scope[] = [
    { kind: 'one', id },
    { kind: 'principal', principal: 'bob' },
    { kind: 'all' },
  ]
  for (const scope of scopes) {
    await right(operator.count(scope))
    await right(operator.endBatch(scope, scope.kind === 'all' ? LAST_ID : FIRST_ID, 1))
  }
  const old = connectPgSimple(watched, { schemaName, tableName: 'old' })
  await right(old.find('1'))
  await right(old.after('1', 10))
  await right(old.shorten('1', 1_000))
  await right(old.remove('1'))
}

const LAST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

const useRecords = async (): Promise<void> => {
  const together = batchedDatabase(watched)
  const ids = A.rights([1, 2, 3, 4].map((n) => notes.id(BigInt(n))))
  const [note] = A.compact(await right(notes.findMany(watched, ids)))
  if (note === undefined) throw new Error('it is gone')
  await Promise.all(ids.map((id) => right(notes.find(together, id))))
  await right(notes.refresh(note))
  await right(notes.by('owner').each([note]))
  await right(tags.through(tagged, 'note', 'tag').each([note]))
  const louder = notes.update('title', (title: string) => `${title}!`)(note)
  await right(notes.save(louder))
  await right(notes.save(louder))
}

await load()
await useSessions(sessionStore(watched, { schema: schemaName }))
await useSessions(sessionStore(watched, { schema: schemaName, distributed: true }))
const store = fast(sessionStore(watched, { schema: schemaName }))
for (const keys of [undefined, ['n']]) {
  const sessions = await four(() => saveSession(sessionSet('n', 1)(buildSession(store))))
  const unknowing = fast(sessionStore(watched, { schema: schemaName }))
  await four((index) => loadSession(unknowing, sessionToken(sessions[index] as Session), keys && { keys }))
  await four((index) => saveSession(sessionSet('n', 2)(sessions[index] as Session)))
}
await administer()
await useRecords()

t.test('each statement of the library was run', (t) => {
  const folder = new URL('../lib/sql/', import.meta.url)
  const sources = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), 'utf8'))
  const names = new Set(
    sources
      .join('\n')
      .match(/(?<=')(?:session|many|listing|distributed|operator|express|schema)\.[\w.]+(?=')/g),
  )
  t.ok(names.size > 50, `${String(names.size)} names`)
  t.strictSame(
    [...names].filter((name) => !seen.has(name)),
    [],
  )
  for (const name of ['find', 'findMany', 'lock', 'by.owner'])
    t.ok(
      [...seen.keys()].some((one) => one.endsWith(`note.${name}`)),
      name,
    )
  t.end()
})

const WRITES = /\b(?:insert into|update|delete from|create|alter)\b/

t.test('each statement that writes nothing has a function that PostgreSQL calls volatile', async (t) => {
  const rows = await rowsOf(
    database,
    `select distinct proname::text as name from pg_proc where provolatile = 'v'`,
  )
  const functions = new Set(rows.map(({ name }) => String(name)))
  const isRead = ({ query }: { readonly query: Query }): boolean =>
    !WRITES.test(query.text) && query !== plainRouteQuery
  const reads = [...seen.values()].filter(isRead)
  t.ok(reads.length > 25, `${String(reads.length)} reads`)
  const isVolatile = (text: string): boolean =>
    (text.match(/\w+(?=\()/g) ?? []).some((name) => functions.has(name))
  t.strictSame(
    reads.filter(({ query }) => !isVolatile(query.text)).map(({ query }) => query.name),
    [],
  )
})

interface Plan {
  readonly 'Node Type': string
  readonly 'Index Name'?: string
  readonly 'Parent Relationship'?: string
  readonly 'One-Time Filter'?: string
  readonly Plans?: readonly Plan[]
}

const planned = async (text: string, params: readonly Param[]): Promise<Plan> => {
  const [row] = await right(
    database.query({ name: 'explain', text: `explain (format json) ${text}` }, params),
  )
  const plan = row?.['QUERY PLAN']
  const [{ Plan: top }] = (typeof plan === 'string' ? JSON.parse(plan) : plan) as [{ readonly Plan: Plan }]
  return top
}

const nodes = (plan: Plan): readonly Plan[] => [plan, ...(plan.Plans ?? []).flatMap(nodes)]

/** How rows are come by, without what only passes them on. */
const shape = (plan: Plan): readonly string[] =>
  nodes(plan)
    .filter((node) => node['Node Type'] !== 'Result')
    .map((node) => `${node['Node Type']} ${node['Index Name'] ?? ''}`)

t.test('the condition changes no plan, and where there may be many rows it is asked once', async (t) => {
  for (const { query, params } of seen.values()) {
    if (!query.text.includes(ON_PRIMARY)) continue
    const plan = await planned(query.text, params)
    const without = query.text.replaceAll(ONCE_ON_PRIMARY, 'true').replaceAll(ON_PRIMARY, 'true')
    t.strictSame(shape(plan), shape(await planned(without, params)), query.name)
    if (query.text.includes(ONCE_ON_PRIMARY))
      t.ok(
        nodes(plan).some((node) => node['One-Time Filter'] !== undefined),
        `${query.name}: once`,
      )
  }
})
