// The stores that every spec runs on, each with a way to let time pass.

import { randomUUID } from 'node:crypto'
import type { Database } from '../../lib/db/database.js'
import { type SessionStoreOptions, sessionStore } from '../../lib/sql/store.js'
import { batched } from '../../lib/store/batched.js'
import { cached } from '../../lib/store/cached.js'
import type { Lifetime, SessionStore } from '../../lib/store/contract.js'
import { memoryStore } from '../../lib/store/memory.js'
import type { OpenSubject } from '../../lib/testing/index.js'
import { right } from '../../lib/testing/subject.js'

/** The store that the README shows. */
export const fast = (store: SessionStore): SessionStore => batched(cached(store))

export { left, right } from '../../lib/testing/subject.js'

export const openMemory: OpenSubject = (lifetime: Partial<Lifetime>) => {
  let now = Date.now()
  return Promise.resolve({
    store: memoryStore({ ...lifetime, clock: () => now }),
    elapse: (milliseconds: number) => {
      now += milliseconds
      return Promise.resolve()
    },
    close: () => Promise.resolve(),
  })
}

/**
 * Opens session stores in a database, each in a schema of its own, which `prepare` may make; their time passes by
 * ageing the rows.
 */
export const openIn =
  (
    database: Database,
    prepare: (schema: string) => Promise<unknown> = () => Promise.resolve(),
    options: SessionStoreOptions = {},
    layered: (store: SessionStore) => SessionStore = (store) => store,
  ): OpenSubject =>
  async (lifetime) => {
    const schema = freshSchema()
    await prepare(schema)
    const store = layered(sessionStore(database, { ...options, ...lifetime, schema }))
    await right(store.prepare)
    return {
      store,
      database,
      elapse: (milliseconds) => age(database, schema, milliseconds),
      close: async () => {
        await right(database.query({ name: 'drop', text: `drop schema ${schema} cascade` }, []))
      },
    }
  }

const made: string[] = []

export const freshSchema = (): string => {
  const schema = `spec_${randomUUID().replaceAll('-', '')}`
  made.push(schema)
  return schema
}

/** Drops all schemas that this process named: the database may be one that stays. */
export const dropSchemas = async (database: Database): Promise<void> => {
  for (const schema of made.splice(0))
    await right(database.query({ name: 'drop', text: `drop schema if exists ${schema} cascade` }, []))
}

/** Time that passes for the rows is time by which they are older. */
export const age = async (database: Database, schema: string, milliseconds: number): Promise<void> => {
  const by = "$1::float8 * interval '1 millisecond'"
  const columns = ['created_at', 'expires_at', 'absolute_expires_at', 'previous_until']
  // By way of UTC, which depends on no setting: a distributed database wants that.
  const older = (column: string) => `${column} = (${column} at time zone 'UTC' - ${by}) at time zone 'UTC'`
  const text = `update ${schema}.session set ${columns.map(older).join(', ')}`
  await right(database.query({ name: 'age', text }, [milliseconds]))
  const listing = `update ${schema}.listing set ${older('collect_at')}`
  await right(database.query({ name: 'age', text: listing }, [milliseconds]))
}
