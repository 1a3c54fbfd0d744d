// Tests a session and records in one transaction. Both are stored or neither, and a rollback publishes no event of a
// save.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import * as S from '../lib/entry/store.js'
import * as K from '../lib/index.js'
import * as R from '../lib/records/index.js'
import { memoryStore } from '../lib/store/memory.js'
import { counting, drivers, rowsOf } from './support/databases.js'
import { freshSchema, left, right } from './support/stores.js'

const shopIn = async (database: S.Database) => {
  const schema = freshSchema()
  const store = S.sessionStore(database, { schema })
  await right(store.prepare)
  await rowsOf(
    database,
    `create table ${schema}.orders (id bigserial primary key, sku text not null, amount int not null check (amount > 0))`,
  )
  const orders = R.record({
    table: `${schema}.orders`,
    key: 'id',
    columns: { id: R.generated(R.int8), sku: R.text, amount: R.int4 },
  })
  const order = (tx: S.Database, amount = 1) =>
    pipe(
      TE.fromEither(orders.build(tx, { sku: 'tea', amount })),
      TE.chainW((built) => orders.save(built)),
    )
  const count = async () =>
    Number((await rowsOf(database, `select count(*) as n from ${schema}.orders`))[0]?.['n'])
  return { schema, store, orders, order, count }
}

const reload = async (session: K.Session) =>
  O.toUndefined(await right(K.loadSession(session.handle, K.sessionToken(session))))

const spec = (t: Test, database: S.Database, hasPool: boolean): void => {
  t.test('the order and the session that refers to it: both, or neither when any step fails', async (t) => {
    const { store, order, count } = await shopIn(database)
    const stored = await right(K.saveSession(K.sessionSet('cart', ['tea'])(K.buildSession(store))))
    const checkout = (session: K.Session, failAt: number) =>
      R.transact(database, (tx) => {
        const step =
          (number: number) =>
          <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L | number, A> =>
            pipe(
              failAt === number ? TE.left<number>(number) : TE.right(undefined),
              TE.chainW(() => task),
            )
        return pipe(
          order(tx),
          step(1),
          TE.chainW(({ id }) =>
            pipe(
              session,
              R.withHandle(tx),
              K.sessionSet('order', String(id)),
              K.sessionDel('cart'),
              K.saveSession,
              step(2),
            ),
          ),
          TE.chainFirstW(() => step(3)(order(tx, failAt === 4 ? 0 : 2))),
          TE.chainW((saved) => step(5)(TE.right(saved))),
        )
      })
    const fresh = () => K.sessionSet('cart', ['milk'])(K.buildSession(store))
    for (const failAt of [1, 2, 3, 4, 5]) {
      t.match(await checkout(stored, failAt)(), { _tag: 'Left' })
      t.match((await reload(stored))?.store.toObject(), { cart: ['tea'], order: undefined })
      const unsaved = fresh()
      t.match(await checkout(unsaved, failAt)(), { _tag: 'Left' })
      t.equal(await reload(unsaved), undefined)
      t.equal(await count(), 0)
      // After the rollback, the same session can still be saved outside of the transaction.
      t.equal((await right(K.saveSession(unsaved))).store.size, 1)
    }
    for (const session of [stored, fresh()]) {
      const saved = await right(checkout(session, 0))
      t.match((await reload(session))?.store.keySeq().toArray(), ['order'])
      t.match(await left(K.saveSession(K.sessionSet('late', 1)(saved))), { kind: 'transactionOver' })
      const again = pipe(saved, R.withHandle(database), K.sessionSet('thanked', true))
      t.equal(again.handle, store)
      t.ok((await right(K.saveSession(again))).store.has('thanked'))
    }
    t.equal(await count(), 4)
  })

  t.test(
    'the current session learns of a commit, of its own accord, and nothing of a rollback',
    async (t) => {
      const { store, order } = await shopIn(database)
      const { events, database: counted } = counting(database)
      const watched = S.sessionStore(counted, { schema: 'unused' })
      t.ok(watched.using)
      const visits = K.sessionUpdate('visits', (n) => Number(n) + 1, 0)
      const within = (tx: S.Database, outcome: TE.TaskEither<string, string>) =>
        pipe(
          K.currentSession,
          TE.map(R.withHandle(tx)),
          TE.chainW(K.saveSession),
          TE.chainFirstW(() => order(tx)),
          TE.chainW(() => outcome),
        )
      const request = (session: K.Session, outcome: TE.TaskEither<string, string>, nested: boolean) =>
        K.withSession(session, () =>
          pipe(
            K.updateCurrentSession(visits),
            TE.chainW(() =>
              TE.fromTask(
                R.transact(database, (tx) =>
                  nested ? R.transact(tx, (tx2) => within(tx2, outcome)) : within(tx, outcome),
                ),
              ),
            ),
            TE.bindTo('result'),
            TE.bindW('edits', () =>
              pipe(
                K.currentSession,
                TE.map(({ edits }) => edits.size),
              ),
            ),
          ),
        )
      for (const nested of [false, true]) {
        const stored = await right(K.saveSession(K.sessionSet('visits', 0)(K.buildSession(store))))
        t.match(await right(request(stored, TE.right('yes'), nested)), { result: { right: 'yes' }, edits: 0 })
        t.equal((await reload(stored))?.store.get('visits'), 1)
        t.match(await right(request(stored, TE.left('no'), nested)), { result: { left: 'no' }, edits: 1 })
        t.equal((await reload(stored))?.store.get('visits'), 2, 'saved once, at the end of its request')
      }
      t.equal(events.length, 0)
    },
  )

  t.test('a session of its own in a savepoint counts when both are committed', async (t) => {
    const { store } = await shopIn(database)
    const visits = K.sessionUpdate('visits', (n) => Number(n) + 1, 0)
    for (const [inner, outer, expected] of [
      [true, true, 1],
      [false, true, 0],
      [true, false, 0],
    ] as const) {
      const stored = await right(K.saveSession(K.sessionSet('visits', 0)(K.buildSession(store))))
      const outcome = (good: boolean) => (good ? TE.right('yes') : TE.left('no'))
      const nested = K.withSession(stored, () =>
        TE.fromTask(
          R.transact(database, (tx) =>
            pipe(
              TE.fromTask(
                R.transact(tx, (tx2) =>
                  pipe(
                    K.withSession(R.withHandle(tx2)(stored), () => K.updateCurrentSession(visits)),
                    TE.chainW(() => outcome(inner)),
                  ),
                ),
              ),
              TE.chainW(() => outcome(outer)),
            ),
          ),
        ),
      )
      await right(nested)
      t.equal((await reload(stored))?.store.get('visits'), expected)
    }
  })

  t.test(
    'ending a session in a transaction ends its request’s frame with the commit, not before',
    async (t) => {
      const { store } = await shopIn(database)
      for (const good of [true, false]) {
        const stored = await right(K.saveSession(K.sessionSet('a', 1)(K.buildSession(store))))
        const told: string[] = []
        const stop = K.onSessionEvent('destroyed', ({ id }) => told.push(id))
        const request = K.withSession(stored, () =>
          pipe(
            TE.fromTask(
              R.transact(database, (tx) =>
                pipe(
                  K.destroySession(R.withHandle(tx)(stored)),
                  TE.tapIO(() => () => t.strictSame(told, [])),
                  TE.chainW(() => (good ? TE.right('yes') : TE.left('no'))),
                ),
              ),
            ),
            TE.chainTaskK(() => K.updateCurrentSession(K.sessionSet('b', 2))),
          ),
        )
        const after = await right(request)
        stop()
        if (good) {
          t.match(after, { _tag: 'Left', left: { _tag: 'SessionGone' } })
          t.equal(await reload(stored), undefined)
          t.strictSame(told, [stored.id])
        } else {
          t.match((await reload(stored))?.store.toObject(), { a: 1, b: 2 })
          t.strictSame(told, [])
        }
      }
    },
  )

  t.test('law 8 holds inside too, and the outer store is refused inside at once', async (t) => {
    const { store } = await shopIn(database)
    let late: Promise<unknown> = Promise.resolve()
    let end = (): void => undefined
    const ended = new Promise<void>((resolve) => (end = resolve))
    const stored = await right(K.saveSession(K.sessionSet('a', 1)(K.buildSession(store))))
    const request = K.withSession(stored, () =>
      TE.fromIO(() => {
        late = ended.then(() =>
          R.transact(database, (tx) => K.saveSession(K.sessionSet('late', 1)(R.withHandle(tx)(stored))))(),
        )
      }),
    )
    await right(request)
    end()
    t.match(await late, { _tag: 'Left', left: { _tag: 'SessionClosed' } })
    const inside = R.transact(database, () => K.saveSession(K.sessionSet('b', 2)(stored)))
    t.match(await left(inside), { _tag: 'DriverError', kind: 'outerHandle' })
    t.strictSame((await reload(stored))?.store.toObject(), { a: 1 })
  })

  t.test('tables that were never looked for are made in the transaction', async (t) => {
    const schema = freshSchema()
    const store = S.sessionStore(database, { schema })
    const session = K.sessionSet('a', 1)(K.buildSession(store))
    const saving = (outcome: TE.TaskEither<string, string>) =>
      R.transact(database, (tx) =>
        pipe(
          K.saveSession(R.withHandle(tx)(session)),
          TE.chainW(() => outcome),
        ),
      )
    t.equal(await left(saving(TE.left('no'))), 'no')
    t.strictSame(await rowsOf(database, `select 1 from pg_namespace where nspname = '${schema}'`), [])
    t.equal(await right(saving(TE.right('yes'))), 'yes')
    t.equal((await reload(session))?.store.get('a'), 1)
  })

  // The transaction of PGlite has its only connection.
  if (hasPool)
    t.test('a transaction of a session that is reset meanwhile is rolled back', async (t) => {
      const { store, order, count } = await shopIn(database)
      const stored = await right(K.saveSession(K.sessionSet('a', 1)(K.buildSession(store))))
      let [reach, end] = [(): void => undefined, (): void => undefined]
      const reached = new Promise<void>((resolve) => (reach = resolve))
      const ended = new Promise<void>((resolve) => (end = resolve))
      const slow = R.transact(database, (tx) =>
        pipe(
          order(tx),
          TE.chainW(() => K.updateCurrentSession(K.sessionSet('a', 2))),
          TE.chainFirstTaskK(() => () => {
            reach()
            return ended
          }),
        ),
      )
      const reset = K.withSession(stored, () =>
        pipe(
          TE.fromTask(async () => {
            const pending = slow()
            await reached
            await right(K.resetSession)
            end()
            return pending
          }),
          TE.chainFirstW(() => K.updateCurrentSession(K.sessionSet('b', 1))),
          TE.chainW((outcome) => TE.map((fresh: K.Session) => ({ outcome, fresh }))(K.currentSession)),
        ),
      )
      const { outcome, fresh } = await right(reset)
      t.match(outcome, { _tag: 'Left', left: { _tag: 'SessionGone' } })
      t.equal(await count(), 0)
      t.equal(await reload(stored), undefined)
      t.strictSame((await reload(fresh))?.store.toObject(), { b: 1 })
    })

  t.test('what is in no database cannot be given a handle of one', async (t) => {
    t.throws(() => R.withHandle(database)(K.buildSession(memoryStore())), TypeError)
    const note = { handle: database, id: 1 }
    t.throws(() => R.withHandle(database)(note), TypeError)
  })
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    spec(t, database, driver.name !== 'PGlite')
  })
