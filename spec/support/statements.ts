// Runs each statement of the library on filled tables, and records the statements.

import { randomUUID } from 'node:crypto'
import { promisify } from 'node:util'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { emptyHead, requestOf, withSave } from '../../lib/cache/head.js'
import { adminOver, FIRST_ID, type Scope, statsOver } from '../../lib/cli/admin.js'
import { adminStatements } from '../../lib/cli/admin-sql.js'
import { noEntries } from '../../lib/core/edits.js'
import { newIdempotencyKey } from '../../lib/core/token.js'
import { batchedDatabase } from '../../lib/db/batched.js'
import type { Database, Param, Query } from '../../lib/db/database.js'
import { connectPgSimple, expressSessionStore } from '../../lib/express-session/index.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadKeys,
  loadSession,
  refreshSession,
  rotateSession,
  type Session,
  saveSession,
  sessionFor,
  sessionSet,
  sessionsOf,
  sessionToken,
  sessionUpdate,
  transact,
  withHandle,
} from '../../lib/promise/index.js'
import { int8, record, text } from '../../lib/records/index.js'
import { quotedSchema, TableGrowth } from '../../lib/sql/schema.js'
import { sessionStore } from '../../lib/sql/store.js'
import type { SessionStore } from '../../lib/store/contract.js'
import { changeOf } from '../../lib/testing/subject.js'
import { rowsOf } from './databases.js'
import { fast, right } from './stores.js'

export interface Statement {
  readonly query: Query
  /** The parameters of the statement's first run. */
  readonly params: readonly Param[]
}

/** The statements by name and text, because several texts may have one name. */
type Seen = Map<string, Statement>

const recorded = (inner: Database, seen: Seen): Database => {
  const outer: Database = {
    ...inner,
    query: (query, params) => {
      const key = `${query.name}\n${query.text}`
      if (!seen.has(key)) seen.set(key, { query, params })
      return inner.query(query, params)
    },
    transaction: (body) =>
      inner.transaction((tx) =>
        body(
          recorded(
            tx.transactionScope === undefined
              ? tx
              : { ...tx, transactionScope: { ...tx.transactionScope, outer } },
            seen,
          ),
        ),
      ),
  }
  return outer
}

const recordsIn = (schemaName: string) => ({
  notes: record({
    table: `${schemaName}.note`,
    key: 'id',
    columns: { id: int8, owner: int8, title: text },
  }),
  tags: record({ table: `${schemaName}.tag`, key: 'id', columns: { id: int8, name: text } }),
  tagged: record({
    table: `${schemaName}.tagged`,
    key: ['note', 'tag'],
    columns: { note: int8, tag: int8 },
  }),
})

const TABLES = ['session', 'entry', 'listing', 'flow', 'continuation', 'effect', 'late_save']

/**
 * Makes ten thousand sessions with three keys, some of them expired, and ten thousand records. The tables are vacuumed
 * and analyzed. Each run makes the same rows, so that the plans are always the same.
 */
const load = async (watched: Database, database: Database, schemaName: string): Promise<void> => {
  await right(sessionStore(watched, { schema: schemaName }).prepare)
  const schema = quotedSchema(schemaName)
  await grow(watched, schema)
  await rowsOf(
    database,
    `do $$ begin
       insert into ${schema}.session
       select md5(n::text)::uuid, sha256(n::text::bytea), null, null, now(), now() + interval '1 hour',
              now() + interval '1 day', 1, decode(lpad(to_hex(n), 16, '0'), 'hex')
       from generate_series(1, 10000) as n;
       update ${schema}.session set expires_at = now() where get_byte(secret_hash, 1) = 0;
       insert into ${schema}.entry
       select id, 'key' || n, '1', 1 from ${schema}.session, generate_series(1, 3) as n;
       insert into ${schema}.listing
       select id, case when get_byte(secret_hash, 0) = 0 then 'ada' end, expires_at from ${schema}.session;
       insert into ${schema}.flow
       select id, id, 'flow', 1, '{}', '', null, null, null, 0, id, 3, 30, null, now(), null, now() + interval '1 day'
       from ${schema}.session;
       insert into ${schema}.continuation
       select id, id, md5(id::text || n)::uuid, null, 0, n, 'step', '[]', '', now()
       from ${schema}.session, generate_series(1, 3) as n;
       insert into ${schema}.effect
       select id, id, id, 'once charge', 0, id, now(), '1' from ${schema}.session;
       insert into ${schema}.late_save
       select id, substring(sha256((id::text || n)::bytea) for 8), now()
       from ${schema}.session, generate_series(1, 3) as n;
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
  for (const table of [...TABLES, 'note', 'tag', 'tagged', 'old'])
    await rowsOf(database, `vacuum analyze ${schema}.${table}`)
}

/** Runs the statements that a store sends while its tables grow. */
const grow = async (watched: Database, schema: string): Promise<void> => {
  const growth = new TableGrowth(watched, schema)
  growth.begin(['session', 'flow'])
  for (const table of ['session', 'flow'] as const) {
    const insert = growth.counting(table, () => TE.right(undefined))
    for (let rows = 0; rows < 100; rows += 1) await right(insert())
  }
}

const four = <A>(act: (index: number) => Promise<A>): Promise<A[]> => Promise.all([0, 1, 2, 3].map(act))

const increment = (key: string) => sessionUpdate(key, (n) => Number(n) + 1, 0)

/** Runs each operation on fully loaded sessions and on a partially loaded session. */
const useSessions = async (watched: Database, store: SessionStore): Promise<void> => {
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
  await loadKeys('other')(await loaded('n'))
  const unloaded = increment('other')(await loaded('n'))
  await transact(watched, (tx) => saveSession(withHandle(tx)(unloaded)))
  await right(store.touch(first.id))
  const before = await loaded()
  await rotateSession(before)
  await rotateSession(before).catch(() => undefined)
  await store.create(first.id, first.token.hash, newIdempotencyKey(), noEntries)()
  await sessionsOf(store, 'bob')
  await destroySession(first)
  await saveSession(sessionFor('eve')(buildSession(store)))
  await destroySessionsOf(store, 'eve')
  await right(store.deleteExpired(10))
}

const useLateSaves = async (store: SessionStore): Promise<void> => {
  const { late } = store
  if (late === undefined) throw new Error('the store has no late saves')
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const change = changeOf(session, sessionSet('n', 2)(session).edits)
  const head = withSave(emptyHead(change.since), change, change.entries, 0)
  await right(late.find(session.id, change.since, [change.save]))
  await right(late.store([requestOf(session.id, head)]))
  await right(late.save(session.id, change))
  await right(late.forget)
}

const useFlows = async (watched: Database, schema: string): Promise<void> => {
  const store = sessionStore(watched, { schema })
  const { flows, batch: { addRows } = {} } = store
  if (flows === undefined || addRows === undefined) throw new Error('the store has no flows')
  const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const [one, flow] = [randomUUID(), randomUUID()]
  const key = { session: session.id, flow }
  const seen = { generation: 0, principal: undefined }
  const head = { name: 'flow', version: 1, input: {}, seed: '00', principal: undefined, caller: undefined }
  const row = {
    id: one,
    parent: undefined,
    parentMade: head.seed,
    step: 'step',
    records: [],
    chars: 2,
    made: newIdempotencyKey(),
    cuts: false,
  }
  const claim = { ...key, scope: flow, name: 'once charge', occurrence: 0, claim: one, claimMs: 1_000 }
  await right(flows.begin(key, { ...head, idleMs: undefined, maxAgeMs: undefined }, undefined))
  const nothing = { session: session.id, row: undefined, ends: [], change: undefined }
  // The recorded parameters are those of the first run, which has a parent. It is refused, since there is no such row.
  const below = { ...row, parent: randomUUID(), parentMade: row.made }
  await flows.write({ ...nothing, row: { key, seen, row: below } })()
  await right(flows.write({ ...nothing, row: { key, seen, row } }))
  await right(addRows([{ key, seen, row: below }]))
  await right(flows.read(key, one, [`${flow} made`]))
  await right(flows.claim(claim, 0))
  await right(flows.release(claim))
  await right(flows.record(claim, 1, 1))
  await right(flows.list(session.id))
  await right(flows.write({ ...nothing, ends: [{ key, seen, to: '/', made: newIdempotencyKey() }] }))
  await right(flows.drop(key))
}

/** Runs the administrator's statements. */
const administer = async (watched: Database, schemaName: string): Promise<void> => {
  const schema = quotedSchema(schemaName)
  const operator = adminOver(watched, schema)
  const stats = statsOver(watched, schema)
  await right(stats.server)
  await right(stats.clock)
  await right(stats.routes)
  await right(stats.hazards)
  await right(stats.contents)
  await right(operator.sessions(10, undefined))
  const [one] = await right(operator.sessions(10, 'ada'))
  const id = one?.id ?? FIRST_ID
  await right(operator.show(id, true))
  const { flows, continuations, dropFlow } = adminStatements(schema)
  await right(watched.query(flows, [id]))
  await right(watched.query(continuations, [id, id, true]))
  await right(watched.query(dropFlow, [id, id]))
  const express = expressSessionStore(sessionStore(watched, { schema: schemaName }), {
    database: watched,
    schema: schemaName,
  })
  for (const method of ['all', 'length', 'clear'] as const)
    await promisify((done: (error: unknown) => void) => express[method]?.(done))()
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

const useRecords = async (watched: Database, schemaName: string): Promise<void> => {
  const { notes, tags, tagged } = recordsIn(schemaName)
  const together = batchedDatabase(watched)
  const ids = A.rights([1, 2, 3, 4].map((n) => notes.id(BigInt(n))))
  const [note] = A.compact(await right(notes.findMany(watched, ids)))
  if (note === undefined) throw new Error('it is gone')
  await Promise.all(ids.map((id) => right(notes.find(together, id))))
  await right(notes.refresh(note))
  await right(notes.hasMany('owner').preload([note]))
  await right(tags.hasManyThrough(tagged, 'note', 'tag').preload([note]))
  const louder = notes.update('title', (title: string) => `${title}!`)(note)
  await right(notes.save(louder))
  await right(notes.save(louder))
}

/** Loads and saves several sessions at once, through a store with a filled cache and through a new store. */
const useBatches = async (open: () => SessionStore): Promise<void> => {
  const store = open()
  for (const keys of [undefined, ['n']]) {
    const sessions = await four(() => saveSession(sessionSet('n', 1)(buildSession(store))))
    const uncached = open()
    await four((index) => loadSession(uncached, sessionToken(sessions[index] as Session), keys && { keys }))
    await four((index) => saveSession(sessionSet('n', 2)(sessions[index] as Session)))
  }
}

/** Runs each statement of the library at least once, in a new schema with filled tables. */
export const runStatements = async (database: Database, schema: string): Promise<readonly Statement[]> => {
  const seen: Seen = new Map()
  const watched = recorded(database, seen)
  await load(watched, database, schema)
  await useSessions(watched, sessionStore(watched, { schema }))
  await useSessions(watched, sessionStore(watched, { schema, citus: true }))
  await useBatches(() => fast(sessionStore(watched, { schema })))
  await useSessions(watched, sessionStore(watched, { schema, durability: 'relaxed' }))
  await useBatches(() => fast(sessionStore(watched, { schema, durability: 'relaxed' })))
  for (const durability of ['full', 'relaxed'] as const)
    await useLateSaves(sessionStore(watched, { schema, durability }))
  await useFlows(watched, schema)
  await administer(watched, schema)
  await useRecords(watched, schema)
  return [...seen.values()]
}

export interface Plan {
  readonly 'Node Type': string
  readonly 'Index Name'?: string
  readonly 'Relation Name'?: string
  readonly 'CTE Name'?: string
  readonly 'Function Name'?: string
  readonly 'Subplan Name'?: string
  readonly 'Join Type'?: string
  readonly Operation?: string
  readonly Strategy?: string
  readonly 'Parent Relationship'?: string
  readonly 'One-Time Filter'?: string
  readonly Plans?: readonly Plan[]
}

export const planned = async (database: Database, text: string, params: readonly Param[]): Promise<Plan> => {
  const [row] = await right(
    database.query({ name: 'explain', text: `explain (format json) ${text}` }, params),
  )
  const plan = row?.['QUERY PLAN']
  const [{ Plan: top }] = (typeof plan === 'string' ? JSON.parse(plan) : plan) as [{ readonly Plan: Plan }]
  return top
}

export const nodes = (plan: Plan): readonly Plan[] => [plan, ...(plan.Plans ?? []).flatMap(nodes)]
