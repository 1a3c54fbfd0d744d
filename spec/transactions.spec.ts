// Tests transactions on both drivers: savepoints, rejected handles, and typed errors.

import { AsyncLocalStorage } from 'node:async_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import type { Database, Param, Queryable } from '../lib/db/database.js'
import { observedDatabase } from '../lib/entry/store.js'
import { transact } from '../lib/records/index.js'
import { drivers, rowsOf, type ServerDriver, type ServerOptions, serverDrivers } from './support/databases.js'
import { newDatabase } from './support/postgres-server.js'
import { freshSchema, left, right } from './support/stores.js'

const run = (database: Queryable, text: string, ...params: readonly Param[]) =>
  database.query({ name: 'spec', text }, params)

/** Makes a table of numbers, and returns functions that insert and read numbers. */
const numbers = async (database: Database) => {
  const schema = freshSchema()
  await right(run(database, `create schema ${schema}`))
  await right(run(database, `create table ${schema}.t (n int primary key)`))
  const insert = (n: number, tx: Queryable) => run(tx, `insert into ${schema}.t values ($1::int)`, n)
  const found = async () => (await rowsOf(database, `select n from ${schema}.t order by n`)).map(({ n }) => n)
  return { insert, found, table: `${schema}.t` }
}

const outerHandle = { _tag: 'Left', left: { _tag: 'DriverError', kind: 'outerHandle', retryable: false } }
const transactionOver = { _tag: 'Left', left: { _tag: 'DriverError', kind: 'transactionOver' } }

const nestingSpec = (t: Test, database: Database): void => {
  t.test('a failed inner transaction goes back alone', async (t) => {
    const { insert, found } = await numbers(database)
    const thrown = new Error('mine')
    const body = (tx: Database) => async () => {
      await right(insert(1, tx))
      const no = transact(tx, (tx2) =>
        pipe(
          insert(2, tx2),
          TE.chainW(() => TE.left('no')),
        ),
      )
      t.equal(await left(no), 'no')
      const twice = transact(tx, (tx2) =>
        pipe(
          insert(3, tx2),
          TE.chain(() => insert(1, tx2)),
        ),
      )
      t.match(await left(twice), { _tag: 'DriverError', kind: 'unique', constraint: 't_pkey' })
      const throwing = transact(tx, (tx2) => async () => {
        await right(insert(4, tx2))
        throw thrown
      })
      await t.rejects(throwing(), thrown)
      const deep = (tx2: Database) => async () => {
        await right(insert(5, tx2))
        await left(
          transact(tx2, (tx3) =>
            pipe(
              insert(6, tx3),
              TE.chainW(() => TE.left('no')),
            ),
          ),
        )
        return transact(tx2, (tx3) => insert(7, tx3))()
      }
      await right(transact(tx, deep))
      await right(insert(8, tx))
      return E.right('done')
    }
    t.equal(await right(transact(database, body)), 'done')
    t.strictSame(await found(), [1, 5, 7, 8])
  })

  t.test('what an inner transaction kept goes with the outer one', async (t) => {
    const { insert, found } = await numbers(database)
    const body = (tx: Database) =>
      pipe(
        transact(tx, (tx2) => insert(1, tx2)),
        TE.chainW(() => TE.left('no')),
      )
    t.equal(await left(transact(database, body)), 'no')
    t.strictSame(await found(), [])
  })

  t.test(
    'a failure that the body overlooks is the outcome all the same, and nothing is stored',
    async (t) => {
      const { insert, found } = await numbers(database)
      const body = (tx: Database) => async () => {
        await insert(1, tx)()
        await insert(1, tx)()
        await insert(2, tx)()
        return E.right('done')
      }
      t.match(await left(transact(database, body)), { _tag: 'DriverError', kind: 'unique' })
      const inner = (tx: Database) => async () => {
        await right(insert(3, tx))
        t.match(await left(transact(tx, body)), { kind: 'unique' })
        return E.right('done')
      }
      t.equal(await right(transact(database, inner)), 'done')
      t.strictSame(await found(), [3])
    },
  )

  t.test('what comes from beside an inner transaction waits for its end', async (t) => {
    const { insert, found } = await numbers(database)
    const order: number[] = []
    const noted = (n: number, tx: Queryable) =>
      pipe(
        insert(n, tx),
        TE.tapIO(() => () => order.push(n)),
      )
    const inner = (n: number) => (tx: Database) => async () => {
      for (let k = 0; k < 3; k += 1) {
        await right(noted(n + k, tx))
        await turn()
      }
      return n === 10 ? E.left('no') : E.right(n)
    }
    const body = (tx: Database) => async () => {
      const inners = [transact(tx, inner(10))(), transact(tx, inner(20))()]
      const beside = noted(1, tx)()
      t.strictSame(await Promise.all(inners), [E.left('no'), E.right(20)])
      await beside
      return E.right(undefined)
    }
    await right(transact(database, body))
    t.strictSame(await found(), [1, 20, 21, 22])
    t.strictSame(
      order.filter((n) => n >= 10),
      [10, 11, 12, 20, 21, 22],
    )
  })

  t.test('whoever waits for its end is told of it, and of a savepoint only when that is over', async (t) => {
    const told: string[] = []
    const listen = (name: string, tx: Database) =>
      tx.transactionScope?.onEnd((committed) => told.push(`${name} ${String(committed)}`))
    const body = (outcome: E.Either<string, string>) => (tx: Database) => async () => {
      listen('outer', tx)
      await transact(tx, (tx2) => TE.fromIO(() => listen('kept', tx2)))()
      await transact(tx, (tx2) =>
        pipe(
          TE.fromIO(() => listen('dropped', tx2)),
          TE.chainW(() => TE.left('no')),
        ),
      )()
      return outcome
    }
    await transact(database, body(E.right('yes')))()
    t.strictSame(told.splice(0), ['kept true', 'dropped false', 'outer true'])
    await transact(database, body(E.left('no')))()
    t.strictSame(told.splice(0), ['kept true', 'dropped false', 'outer false'])
  })
}

const handleSpec = (t: Test, database: Database): void => {
  t.test('the outer handle is refused inside, at once, at any depth; not outside', async (t) => {
    const { insert, found } = await numbers(database)
    const observed = observedDatabase(database, () => undefined)
    let begun = (): void => undefined
    const beginning = new Promise<void>((resolve) => (begun = resolve))
    let go = (): void => undefined
    const going = new Promise<void>((resolve) => (go = resolve))
    const body = (tx: Database) => async () => {
      begun()
      await going
      for (const outer of [database, observed]) {
        t.match(await insert(1, outer)(), outerHandle)
        t.match(await transact(outer, (tx2) => insert(1, tx2))(), outerHandle)
      }
      t.match(await tx.close(), outerHandle)
      const inner = (tx2: Database) => async () => {
        t.match(await insert(1, database)(), outerHandle)
        t.match(await insert(1, tx)(), outerHandle)
        t.match(await transact(tx, (tx3) => insert(1, tx3))(), outerHandle)
        return insert(2, tx2)()
      }
      await right(transact(tx, inner))
      return insert(3, tx)()
    }
    const running = transact(database, body)()
    await beginning
    // PGlite runs a statement of another request after the transaction.
    const other = insert(4, database)()
    go()
    await running
    t.match(await other, { _tag: 'Right' })
    t.strictSame(await found(), [2, 3, 4])
  })

  t.test('what outlives a transaction may use the outer handle, and no longer the inner one', async (t) => {
    const { insert, found } = await numbers(database)
    let late: Promise<unknown> = Promise.resolve()
    let ended = (): void => undefined
    const end = new Promise<void>((resolve) => (ended = resolve))
    const body = (tx: Database) => async () => {
      late = end.then(async () => {
        t.match(await insert(1, tx)(), transactionOver)
        t.match(await transact(tx, (tx2) => insert(1, tx2))(), transactionOver)
        t.match(await insert(2, database)(), { _tag: 'Right' })
        t.match(await transact(database, (tx2) => insert(3, tx2))(), { _tag: 'Right' })
      })
      return insert(4, tx)()
    }
    await right(transact(database, body))
    ended()
    await late
    t.strictSame(await found(), [2, 3, 4])
  })

  t.test('the body runs in the async context of its caller', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const seen = (tx: Database) => async () => {
      await right(run(tx, 'select 1'))
      return E.right(storage.getStore())
    }
    const nested = (tx: Database) => transact(tx, seen)
    t.strictSame(await storage.run('here', transact(database, nested)), E.right('here'))
  })
}

const violations = [
  ['unique', '23505', 'insert into T values (1, 1, 1, int4range(50, 51))', 't_pkey'],
  ['check', '23514', 'insert into T values (2, 1, 0, int4range(50, 51))', 'positive'],
  ['foreignKey', '23503', 'insert into T values (2, 9, 1, int4range(50, 51))', 'parent'],
  ['notNull', '23502', 'insert into T values (2, null, 1, int4range(50, 51))', undefined],
  ['exclusion', '23P01', 'insert into T values (2, 1, 1, int4range(5, 6))', 'apart'],
  ['serialization', '40001', `do $$ begin raise exception 'x' using errcode = '40001'; end $$`, undefined],
  ['deadlock', '40P01', `do $$ begin raise exception 'x' using errcode = '40P01'; end $$`, undefined],
  [undefined, '22012', 'select 1 / 0', undefined],
] as const

const violationSpec = (t: Test, database: Database): void => {
  t.test('violations are typed values with the names of what was violated', async (t) => {
    const schema = freshSchema()
    await right(run(database, `create schema ${schema}`))
    const definition = `id int primary key, parent int not null constraint parent references ${schema}.t,
      n int constraint positive check (n > 0), r int4range, constraint apart exclude using gist (r with &&)`
    await right(run(database, `create table ${schema}.t (${definition})`))
    await right(run(database, `insert into ${schema}.t values (1, 1, 1, int4range(1, 10))`))
    for (const [kind, sqlState, text, constraint] of violations)
      for (const tried of [
        run(database, text.replace('T', `${schema}.t`)),
        transact(database, (tx) => run(tx, text.replace('T', `${schema}.t`))),
      ]) {
        const error = await left(tried)
        if (!(error instanceof DriverError)) throw error
        t.strictSame([error.kind, error.sqlState, error.constraint], [kind, sqlState, constraint])
        t.equal(error.column, kind === 'notNull' ? 'parent' : undefined)
        t.equal(error.retryable, sqlState.startsWith('40'))
      }
  })
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    nestingSpec(t, database)
    handleSpec(t, database)
    violationSpec(t, database)
  })

const onServer = (driver: ServerDriver) => async (t: Test) => {
  const server = await newDatabase()
  t.teardown(() => server.stop())
  const open = (options: ServerOptions = {}) => {
    const database = driver.open(server.url, { fixed: true, ...options })
    t.teardown(() => database.close())
    return database
  }
  const other = open()

  t.test('with a pool of one connection the outer handle is an error, not a wait', async (t) => {
    const database = open({ max: 1 })
    const body = () =>
      pipe(
        run(database, 'select 1'),
        TE.chainW(() => run(database, 'select 2')),
      )
    t.match(await transact(database, body)(), outerHandle)
    t.match(await run(database, 'select 3 as n')(), E.right([{ n: 3 }]))
  })

  const terminate = (tx: Database) => async () => {
    const [row] = await right(run(tx, 'select pg_backend_pid()::text as pid'))
    return run(other, 'select pg_terminate_backend($1::text::int)', String(row?.['pid']))()
  }

  t.test('once its backend is killed a transaction stays dead, in a savepoint or not', async (t) => {
    const database = open({ max: 1 })
    const { insert, found } = await numbers(other)
    /** Continues after every failure, like a program that ignores errors. */
    const persist = async (n: number, tx: Database) => {
      for (let k = 0; k < 3; k += 1) {
        await insert(n + k, tx)()
        await turn()
      }
    }
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const killedInside = (tx: Database) => async () => {
        await right(insert(1, tx))
        const inner = (tx2: Database) => async () => {
          await right(insert(2, tx2))
          await right(terminate(tx2))
          await persist(10, tx2)
          return E.right('inner')
        }
        t.match(await left(transact(tx, inner)), { _tag: 'DriverError' })
        await persist(20, tx)
        t.match(await left(transact(tx, (tx2) => insert(30, tx2))), { _tag: 'DriverError' })
        return E.right('outer')
      }
      t.match(await left(transact(database, killedInside)), { _tag: 'DriverError' })
      const killed = (tx: Database) => async () => {
        await right(insert(1, tx))
        await right(terminate(tx))
        await persist(10, tx)
        const inner = (tx2: Database) => async () => {
          await persist(20, tx2)
          return E.right('inner')
        }
        await transact(tx, inner)()
        return E.right('outer')
      }
      t.match(await left(transact(database, killed)), { _tag: 'DriverError' })
      const whole = transact(database, (tx) =>
        pipe(
          run(tx, 'select 1'),
          TE.chain(() => run(tx, 'select 2 as n')),
        ),
      )
      t.strictSame(await untilRight(whole), [{ n: 2 }], 'the next one on that connection is a whole one')
    }
    t.strictSame(await found(), [])
  })

  t.test(
    'two transactions that cannot both be are a serialization failure, two that lock crosswise a deadlock',
    async (t) => {
      const { insert, table } = await numbers(other)
      await right(insert(1, other))
      await right(insert(2, other))
      const [a, b] = [open(), open()]
      const meet = meeting(2)
      const skewed = (mine: number) => (tx: Database) => async () => {
        await right(run(tx, 'set transaction isolation level serializable'))
        await right(run(tx, `select sum(n) from ${table}`))
        await meet()
        return run(tx, `update ${table} set n = n + 10 where n = $1::int`, mine)()
      }
      const skews = await Promise.all([transact(a, skewed(1))(), transact(b, skewed(2))()])
      t.match(skews.filter(E.isLeft), [{ left: { kind: 'serialization', retryable: true } }])
      const [low, high] = (await rowsOf(other, `select n from ${table} order by n`)).map(({ n }) => Number(n))
      const lock = (n: number | undefined, tx: Database) =>
        run(tx, `select from ${table} where n = $1::int for update`, Number(n))
      const meetAgain = meeting(2)
      const crossed =
        (first: number | undefined, second: number | undefined) => (tx: Database) => async () => {
          await right(lock(first, tx))
          await meetAgain()
          return lock(second, tx)()
        }
      const crossings = await Promise.all([
        transact(a, crossed(low, high))(),
        transact(b, crossed(high, low))(),
      ])
      t.match(crossings.filter(E.isLeft), [{ left: { kind: 'deadlock', retryable: true } }])
    },
  )
}

for (const driver of serverDrivers) t.test(`on PostgreSQL: ${driver.name}`, onServer(driver))

/** Makes a barrier at which `count` callers wait for each other. */
const meeting = (count: number) => {
  let arrived = 0
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => (open = resolve))
  return () => {
    arrived += 1
    if (arrived === count) open()
    return opened
  }
}

/** Repeats the task until the restarted database answers, at most 100 times. */
const untilRight = async <L, A>(task: TE.TaskEither<L, A>): Promise<A> => {
  for (let attempt = 1; attempt < 100; attempt += 1) {
    const result = await task()
    if (E.isRight(result)) return result.right
    await turn()
  }
  return right(task)
}
