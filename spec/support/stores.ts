// Opens the stores for specs, with a function that lets time pass for each store.

import { randomUUID } from 'node:crypto'
import type { Database } from '../../lib/db/database.js'
import { type SessionStoreOptions, sessionStore } from '../../lib/sql/store.js'
import { batched } from '../../lib/store/batched.js'
import { cached } from '../../lib/store/cached.js'
import type { Lifetime, SessionStore } from '../../lib/store/contract.js'
import { memoryStore } from '../../lib/store/memory.js'
import type { OpenSubject } from '../../lib/testing/index.js'
import { right } from '../../lib/testing/subject.js'

/** Adds the layers `cached` and `batched` to a store. */
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
 * Opens session stores in a database, each in its own schema, which `prepare` may create. The rows are made older to
 * let time pass.
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

/** Drops all schemas that this process has named, because the database may be a permanent one. */
export const dropSchemas = async (database: Database): Promise<void> => {
  for (const schema of made.splice(0))
    await right(database.query({ name: 'drop', text: `drop schema if exists ${schema} cascade` }, []))
}

/** Makes all rows older by this time. */
export const age = async (database: Database, schema: string, milliseconds: number): Promise<void> => {
  const by = "$1::float8 * interval '1 millisecond'"
  const columns = ['created_at', 'expires_at', 'absolute_expires_at', 'previous_until']
  // The calculation is in UTC, because Citus accepts only expressions that do not depend on settings.
  const older = (column: string) => `${column} = (${column} at time zone 'UTC' - ${by}) at time zone 'UTC'`
  const text = `update ${schema}.session set ${columns.map(older).join(', ')}`
  await right(database.query({ name: 'age', text }, [milliseconds]))
  const listing = `update ${schema}.listing set ${older('collect_at')}`
  await right(database.query({ name: 'age', text: listing }, [milliseconds]))
  const flow = `update ${schema}.flow set ${['used_at', 'expires_at', 'collect_at'].map(older).join(', ')}`
  await right(database.query({ name: 'age', text: flow }, [milliseconds]))
}
