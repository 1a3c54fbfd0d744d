// Tests the rows of a session in the database on both drivers. The spec counts the statements and rows of each
// operation, checks the stored data, and creates and upgrades the tables.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import t, { type Test } from 'tap'
import { deleted, noEdits, setTo } from '../lib/core/edits.js'
import { SchemaMismatch } from '../lib/core/errors.js'
import type { Json } from '../lib/core/json.js'
import { sessionDel, sessionSet } from '../lib/core/values.js'
import type { Database } from '../lib/db/database.js'
import {
  buildSession,
  currentSession,
  destroySession,
  loadSession,
  refreshSession,
  rotateSession,
  saveSession,
  sessionToken,
  withSession,
} from '../lib/index.js'
import { withHandle } from '../lib/records/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { batched } from '../lib/store/batched.js'
import type { Session } from '../lib/store/contract.js'
import { saveEdits } from '../lib/testing/subject.js'
import { counting, drivers, rowsOf } from './support/databases.js'
import { age, freshSchema, left, right } from './support/stores.js'

const load = async (session: Session): Promise<Session> =>
  O.toNullable(await right(loadSession(session.handle, sessionToken(session)))) ??
  Promise.reject(new Error('not there'))

const rowsSpec = (t: Test, database: Database): void => {
  const opened = async (options = {}) => {
    const schema = freshSchema()
    const counted = counting(database)
    const store = sessionStore(counted.database, { schema, ...options })
    await right(store.prepare)
    counted.events.length = 0
    const statements = (): readonly string[] => counted.events.splice(0).map((event) => event.query.name)
    const stored = (...edits: readonly ((session: Session) => Session)[]) =>
      right(saveSession(edits.reduce((session, edit) => edit(session), buildSession(store))))
    return { schema, store, statements, stored }
  }
  // Counts the rows that the last save wrote, by their transaction id `xmin`.
  const writtenWith = async (schema: string): Promise<readonly unknown[]> => {
    const [row] = await rowsOf(
      database,
      `select (select count(*) from ${schema}.entry where xmin::text = s.xmin::text)::int as entries,
              (select count(*) from ${schema}.session where xmin::text = s.xmin::text)::int as headers
       from ${schema}.session s`,
    )
    return [row?.['entries'], row?.['headers']]
  }

  t.test('law 2, one load, one save: one statement each', async (t) => {
    const { statements, stored } = await opened()
    const session = await stored(sessionSet('a', 1), sessionSet('b', 2))
    t.strictSame(statements(), ['session.create'])
    await right(
      saveSession(pipe(await load(session), sessionSet('a', 2), sessionDel('b'), sessionSet('c', 3))),
    )
    t.strictSame(statements(), ['session.load', 'session.save'])
    await right(rotateSession(session))
    await right(destroySession(session))
    t.strictSame(statements(), ['session.rotate', 'session.fence', 'session.destroy'])
  })

  t.test(
    'law 2, one load, one save: an unchanged request inside the touch window writes nothing',
    async (t) => {
      const { schema, statements, stored } = await opened({ idleMs: 100_000, touchFraction: 0.1 })
      const session = await stored(sessionSet('a', 1))
      await age(database, schema, 9_000)
      statements()
      await right(withSession(await load(session), () => currentSession))
      t.strictSame(statements(), ['session.load'])
      await age(database, schema, 2_000)
      await right(withSession(await load(session), () => currentSession))
      t.strictSame(statements(), ['session.load', 'session.touch'])
      await right(withSession(await load(session), () => currentSession))
      t.strictSame(statements(), ['session.load'])
    },
  )

  t.test('law 2, one load, one save: a visitor who stores nothing makes no row', async (t) => {
    const { schema, store, statements } = await opened()
    await right(withSession(buildSession(store), () => currentSession))
    await right(saveSession(pipe(buildSession(store), sessionSet('a', 1), sessionDel('a'))))
    t.strictSame(statements(), [])
    t.strictSame(await rowsOf(database, `select 1 from ${schema}.session`), [])
  })

  t.test(
    'law 3, cost follows the change: 3 of 5,000 keys changed write 3 entries and 1 header',
    async (t) => {
      const { schema, statements, stored } = await opened()
      const sets = Array.from({ length: 5_000 }, (_, index) => sessionSet(`key ${String(index)}`, { index }))
      const session = await stored(...sets)
      t.strictSame(await writtenWith(schema), [5_000, 1])
      const loaded = await load(session)
      statements()
      await right(
        saveSession(pipe(loaded, sessionSet('key 1', 'x'), sessionSet('new', 'y'), sessionDel('key 2'))),
      )
      t.strictSame(statements(), ['session.save'])
      t.strictSame(await writtenWith(schema), [3, 1])
      const revisions = await rowsOf(
        database,
        `select key, revision from ${schema}.entry where revision > 1 order by key`,
      )
      t.strictSame(revisions, [
        { key: 'key 1', revision: 2n },
        { key: 'key 2', revision: 2n },
        { key: 'new', revision: 2n },
      ])
    },
  )

  t.test(
    'law 11, an expiration never moves backwards, not even by a store with a shorter idle time',
    async (t) => {
      const { schema, stored } = await opened({ idleMs: 3_600_000 })
      const session = await stored(sessionSet('a', 1))
      const hasty = {
        ...session,
        handle: sessionStore(database, { schema, idleMs: 1_000, touchFraction: 0 }),
      }
      const saved = await right(saveSession(sessionSet('a', 2)(hasty)))
      t.strictSame(saved.expiration, session.expiration)
      t.strictSame((await right(refreshSession(saved))).expiration, session.expiration)
    },
  )

  t.test("law 12, the database keeps only the secret's hash", async (t) => {
    const { schema, stored } = await opened({ rotationGraceMs: 60_000 })
    const before = await stored(sessionSet('user', 'ada'))
    const after = await right(rotateSession(before))
    const [dump] = await rowsOf(database, `select string_agg(s::text, '') as text from ${schema}.session s`)
    for (const session of [before, after]) {
      const secret = sessionToken(session).split('.')[1] ?? ''
      for (const form of [
        secret,
        Buffer.from(secret).toString('hex'),
        Buffer.from(secret, 'base64url').toString('hex'),
      ])
        t.notOk(String(dump?.['text']).includes(form))
      t.ok(String(dump?.['text']).includes(session.token.hash))
    }
  })

  t.test('deleted keys leave no rows behind for ever', async (t) => {
    const { schema, stored } = await opened()
    const session = await stored(sessionSet('kept', 1))
    for (let revision = 2; revision <= 600; revision += 1) {
      const set = revision % 2 === 0
      const key = `once ${String(set ? revision : revision - 1)}`
      await right(saveEdits(session, noEdits.set(key, set ? setTo<Json>(1) : deleted())))
    }
    const [count] = await rowsOf(database, `select count(*)::int as entries from ${schema}.entry`)
    t.ok(Number(count?.['entries']) <= 256, `${String(count?.['entries'])} rows`)
    t.strictSame((await load(session)).store.toObject(), { kept: 1, 'once 600': 1 })
  })

  t.test('deleted keys leave no rows behind, if the saves of a batch know an older revision', async (t) => {
    const { schema, stored, store, statements } = await opened()
    const session = await stored(sessionSet('gone', 1))
    const other = await stored(sessionSet('n', 1))
    await right(saveEdits(session, noEdits.set('gone', deleted())))
    const n = (revision: number) => noEdits.set('n', setTo<Json>(revision))
    for (let revision = 3; revision <= 505; revision += 1) await right(saveEdits(session, n(revision)))
    const known = await load(session)
    for (let revision = 506; revision <= 511; revision += 1) await right(saveEdits(session, n(revision)))
    const deletedKeys = () =>
      rowsOf(database, `select key, revision::int as at from ${schema}.entry where value is null`)
    // The save of revision 256 has kept the tombstone, since it was 254 revisions old.
    t.strictSame(await deletedKeys(), [{ key: 'gone', at: 2 }])
    statements()
    const handle = batched(store)
    await Promise.all([other, known].map((one) => right(saveEdits({ ...one, handle }, n(512)))))
    t.strictSame(statements(), ['batch.save', 'session.saveFull'])
    t.strictSame((await load(session)).store.toObject(), { n: 512 })
    t.strictSame(await deletedKeys(), [])
  })

  t.test(
    'deleted keys leave rows for at least 256 revisions, so that who read the session then is told',
    async (t) => {
      const { stored } = await opened()
      const session = await stored(sessionSet('gone', 1), sessionSet('kept', 1))
      await right(saveEdits(session, noEdits.set('gone', deleted())))
      // The save of revision 256 deletes old tombstones. This tombstone is 254 revisions old.
      for (let revision = 3; revision <= 256; revision += 1)
        await right(saveEdits(session, noEdits.set('n', setTo<Json>(revision))))
      t.strictSame((await right(refreshSession(session))).store.toObject(), { kept: 1, n: 256 })
      await right(saveEdits(session, noEdits.set('n', setTo<Json>(257))))
      t.strictSame(
        (await right(refreshSession(session))).store.toObject(),
        { kept: 1, n: 257 },
        'read whole: too long ago',
      )
    },
  )

  t.test('the tables are made once, by whoever comes first', async (t) => {
    const schema = freshSchema()
    const stores = Array.from({ length: 10 }, () => sessionStore(database, { schema }))
    const saved = await Promise.all(
      stores.map((store) => right(saveSession(sessionSet('a', 1)(buildSession(store))))),
    )
    t.equal((await rowsOf(database, `select 1 from ${schema}.session`)).length, saved.length)
  })

  t.test(
    'tables that are missing are a SchemaMismatch when they must not be made, or were taken away',
    async (t) => {
      const schema = freshSchema()
      const store = sessionStore(database, { schema, upgradeSchema: false })
      const session = sessionSet('a', 1)(buildSession(store))
      const missing = await left(saveSession(session))
      t.ok(missing instanceof SchemaMismatch && missing.schema === schema)
      await right(sessionStore(database, { schema }).prepare)
      await right(saveSession(session))
      await rowsOf(database, `drop schema ${schema} cascade`)
      for (let time = 0; time < 2; time += 1)
        t.match(await left(loadSession(store, sessionToken(session))), {
          _tag: 'SchemaMismatch',
          message: /missing.*keyrow schema upgrade/,
        })
    },
  )

  t.test('a running process makes its tables again after they were dropped', async (t) => {
    const schema = freshSchema()
    const store = sessionStore(database, { schema })
    const drop = () => rowsOf(database, `drop schema ${schema} cascade`)
    const session = await right(saveSession(sessionSet('a', 1)(buildSession(store))))
    await drop()
    t.match(await right(loadSession(store, sessionToken(session))), O.none)
    await drop()
    t.match(await left(saveSession(sessionSet('b', 1)(session))), { _tag: 'SessionGone' })
    await drop()
    const next = await right(saveSession(sessionSet('a', 2)(buildSession(store))))
    t.match(await right(loadSession(store, sessionToken(next))), { _tag: 'Some' })
    await drop()
    const saves = Array.from({ length: 10 }, () =>
      right(saveSession(sessionSet('a', 3)(buildSession(store)))),
    )
    t.equal((await Promise.all(saves)).length, 10)
    await drop()
    const lost = (tx: Database) => saveSession(withHandle(tx)(sessionSet('a', 4)(buildSession(store))))
    t.match(await left(database.transaction(lost)), {
      _tag: 'SchemaMismatch',
      message: /the next operation prepares them again/,
    })
    await right(database.transaction(lost))
    await rowsOf(database, `drop table ${schema}.entry`)
    t.match(await left(loadSession(store, sessionToken(next))), {
      _tag: 'SchemaMismatch',
      message: /not keyrow's, or incomplete.*Choose another schema, or repair this one/,
    })
  })

  t.test('options that make no sense are refused at once', (t) => {
    for (const schema of ['', 'Upper', 'a"b', 'a;drop', '1a', 'x'.repeat(64), 'é'])
      t.throws(() => sessionStore(database, { schema }), RangeError)
    for (const options of [
      { idleMs: 0 },
      { idleMs: Number.NaN },
      { absoluteMs: -1 },
      { touchFraction: 1.5 },
      { rotationGraceMs: -1 },
    ])
      t.throws(() => sessionStore(database, options), RangeError)
    t.end()
  })
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    rowsSpec(t, database)
  })
