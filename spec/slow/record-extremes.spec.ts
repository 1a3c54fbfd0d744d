// Records at their limits: values of many megabytes, many keys at once, and a database that dies. What fails is a typed
// error, what was said to be stored is stored, and a record keeps the edits that could not be saved.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as D from 'io-ts'
import t, { type Test } from 'tap'
import type { Database } from '../../lib/db/database.js'
import { pgliteDatabase } from '../../lib/db/pglite.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import * as R from '../../lib/records/index.js'
import { drivers, quietPools, rowsOf } from '../support/databases.js'
import { startPostgres } from '../support/postgres-server.js'
import { startProxy } from '../support/proxy.js'
import { freshSchema, left, right } from '../support/stores.js'

/** The right of an `Either`; a left fails the test with its error. */
const ok = <A>(either: E.Either<unknown, A>): A => {
  if (E.isLeft(either)) throw either.left as Error
  return either.right
}

const pagesIn = async (database: Database) => {
  const schema = freshSchema()
  await rowsOf(database, `create schema ${schema}`)
  await rowsOf(
    database,
    `create table ${schema}.page (id bigserial primary key, body text, bytes bytea, tree jsonb, words text[],
       views int not null default 0)`,
  )
  const pages = R.record({
    table: `${schema}.page`,
    key: 'id',
    columns: {
      id: R.generated(R.int8),
      body: R.text,
      bytes: R.bytea,
      tree: R.jsonb(D.array(D.type({ n: D.number }))),
      words: R.array(R.text),
      views: R.generated(R.int4),
    },
  })
  const build = (handle: Database, body = 'tea') =>
    pages.build(handle, { body, bytes: Uint8Array.of(1), tree: [], words: [] })
  const seen = pages.update('views', (views) => views + 1)
  const count = () => rowsOf(database, `select count(*)::int as n from ${schema}.page`)
  return { schema, pages, build, seen, count }
}

const MEGABYTES = 8

const huge = {
  body: 'é"\\\n'.repeat((MEGABYTES * 1024 * 1024) / 5),
  bytes: Uint8Array.from({ length: MEGABYTES * 1024 * 1024 }, (_, index) => index * 7),
  tree: Array.from({ length: 200_000 }, (_, n) => ({ n })),
  words: Array.from({ length: 200_000 }, (_, index) => `"${String(index)}\\`),
}

const sameAs = (
  found: R.DeepReadonly<Omit<typeof huge, 'bytes'>> & { readonly bytes: Uint8Array },
): Readonly<Record<string, boolean>> => ({
  body: found.body === huge.body,
  bytes: Buffer.compare(found.bytes, huge.bytes) === 0,
  tree: JSON.stringify(found.tree) === JSON.stringify(huge.tree),
  words: found.words.join('\n') === huge.words.join('\n'),
})

const whole = { body: true, bytes: true, tree: true, words: true }

const hugeSpec = (t: Test, database: Database): void => {
  t.test('values of many megabytes go in, are edited beside each other, and come back whole', async (t) => {
    const { pages, seen } = await pagesIn(database)
    const page = await right(pages.save(ok(pages.build(database, huge))))
    t.strictSame(sameAs(page), whole)
    const found = O.toNullable(await right(pages.find(database, page.id)))
    t.strictSame(found && sameAs(found), whole)
    const body = `${huge.body}!`
    const [, counted] = await Promise.all([
      right(pages.save(pages.set('body', body)(page))),
      right(pages.save(seen(page))),
    ])
    t.equal(counted.views, 1)
    const longer = pages.update('words', (words) => [...words, 'x'])(page)
    const last = await right(pages.save(longer))
    t.strictSame([last.body === body, last.words.length, last.views], [true, huge.words.length + 1, 1])
    t.strictSame(sameAs({ ...huge, bytes: last.bytes, tree: last.tree }), whole)
  })

  t.test(
    'a value that the server has no room for is a typed error, and the row stays as it was',
    async (t) => {
      const { pages, schema } = await pagesIn(database)
      // An index has room for some two kilobytes of what does not compress.
      await rowsOf(database, `create index on ${schema}.page (body)`)
      const noise = Array.from({ length: 20_000 }, () => Math.random().toString(36).slice(2)).join('')
      const page = await right(pages.save(ok(pages.build(database, { ...huge, body: 'short' }))))
      const error = await left(pages.save(pages.set('body', noise)(page)))
      t.match(error, { _tag: 'DriverError', sqlState: '54000', retryable: false })
      t.notOk(error.message.includes(noise.slice(0, 100)), 'and it does not repeat the value')
      t.equal((await right(pages.refresh(page))).body, 'short')
    },
  )

  t.test('many keys at once, each answered in its place, by one statement', async (t) => {
    const { pages, schema } = await pagesIn(database)
    await rowsOf(
      database,
      `insert into ${schema}.page (body, bytes, tree, words) select n::text, '', '[]', '{}' from generate_series(1, 20000) n`,
    )
    const ids = Array.from({ length: 40_000 }, (_, index) => ok(pages.id(BigInt(40_000 - index))))
    const found = await right(pages.findMany(database, ids))
    t.equal(found.length, 40_000)
    t.ok(found.slice(0, 20_000).every(O.isNone))
    t.ok(
      found.slice(20_000).every((page, index) => O.isSome(page) && page.value.id === BigInt(20_000 - index)),
    )
  })
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    hugeSpec(t, database)
  })

const lost = { _tag: 'DriverError', retryable: true }

t.test(
  'a server that is killed: typed errors while it is gone, and nothing lost once it is back',
  async (t) => {
    const server = await startPostgres()
    t.teardown(() => server.stop())
    const database = postgresDatabase(quietPools(server.url, { connect_timeout: 2 }))
    t.teardown(() => right(database.close))
    const { schema, pages, build, seen, count } = await pagesIn(database)
    const pageOf = pages.hasMany('id')
    const page = await right(pages.save(ok(build(database))))
    const edited = pipe(page, pages.set('body', 'milk'), seen)
    const fresh = ok(build(database, 'new'))

    const inside = await R.transact(database, (tx) => async () => {
      const { save } = pages
      await right(save(ok(build(tx, 'never'))))
      await server.kill()
      t.match(await left(save(ok(build(tx, 'nor this')))), { _tag: 'DriverError' })
      return E.right('done')
    })()
    t.match(inside, { _tag: 'Left', left: { _tag: 'DriverError' } })

    const every = R.sql`select ${pages.row} from page`
    const asked: Readonly<Record<string, TE.TaskEither<unknown, unknown>>> = {
      find: pages.find(database, page.id),
      findMany: pages.findMany(database, [page.id]),
      by: pageOf(page),
      insert: pages.save(fresh),
      save: pages.save(edited),
      refresh: pages.refresh(edited),
      destroy: pages.destroy(page),
      queryMany: R.queryMany(database, pages, every),
      queryStream: R.queryStream(database, pages, every, () => TE.right('never')),
      transact: R.transact(database, () => TE.right('never')),
    }
    for (const [name, task] of Object.entries(asked)) t.match(await left(task), lost, name)
    t.strictSame([edited.body, edited.views], ['milk', 1], 'the record is what it was')
    t.equal(await right(pages.save(page)), page, 'nothing to save needs no database')

    await server.start()
    t.strictSame(await rowsOf(database, `select body, views from ${schema}.page`), [
      { body: 'tea', views: 0 },
    ])
    t.match(await right(pages.save(edited)), { body: 'milk', views: 1 }, 'the same value is saved now')
    t.match(await right(pages.save(fresh)), { body: 'new' })
    t.strictSame(await count(), [{ n: 2 }])
  },
)

t.test('an answer that is lost: an error says so, and what was done is found by a refresh', async (t) => {
  const server = await startPostgres()
  t.teardown(() => server.stop())
  const proxy = await startProxy(server.url)
  t.teardown(() => proxy.close())
  const database = postgresDatabase(quietPools(proxy.url))
  t.teardown(() => right(database.close))
  const { pages, build, seen, count } = await pagesIn(database)
  const page = await right(pages.save(ok(build(database))))
  proxy.loseNextAnswer(() => Promise.resolve())
  t.match(await left(pages.save(seen(page))), lost)
  t.equal((await right(pages.refresh(page))).views, 1)
  proxy.loseNextAnswer(() => Promise.resolve())
  t.match(await left(pages.save(ok(build(database)))), lost)
  t.strictSame(await count(), [{ n: 2 }], 'an insert is not tried again by itself')
  proxy.loseNextAnswer(() => Promise.resolve(), 'a commit')
  const both = R.transact(database, (tx) =>
    pipe(
      pages.save(R.withHandle(tx)(pages.set('body', 'milk')(page))),
      TE.chainW(() => TE.fromEither(build(tx))),
      TE.chainW(pages.save),
    ),
  )
  t.match(await left(both), lost)
  t.equal(proxy.lost(), 3)
  const [refreshed, [found]] = [await right(pages.refresh(page)), await count()]
  t.strictSame([refreshed.body, found], ['milk', { n: 3 }], 'both of it, since it was committed')
})

t.test('a database that was closed refuses in the same way', async (t) => {
  const database = pgliteDatabase()
  const { pages, build, seen } = await pagesIn(database)
  const page = await right(pages.save(ok(build(database))))
  await right(database.close)
  const asked: readonly TE.TaskEither<unknown, unknown>[] = [
    pages.find(database, page.id),
    pages.save(seen(page)),
    pages.save(ok(build(database))),
    pages.destroy(page),
    R.transact(database, () => TE.right('never')),
  ]
  for (const task of asked) t.match(await left(task), { _tag: 'DriverError' })
})
