// Tests keys, columns and flows whose schemas are those of zod, valibot and arktype, through a store in PostgreSQL.

import { type } from 'arktype'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import * as io from 'io-ts'
import t, { type Test } from 'tap'
import * as v from 'valibot'
import { z } from 'zod'
import { codecOf, type Schema, type Storable } from '../lib/core/schema.js'
import { pgDatabase } from '../lib/db/pg.js'
import { flow, flowHandler, secretAnswer, suspend } from '../lib/flow/index.js'
import * as K from '../lib/index.js'
import * as R from '../lib/records/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { memoryStore } from '../lib/store/memory.js'
import { pgPool, rowsOf } from './support/databases.js'
import { newDatabase } from './support/postgres-server.js'
import { freshSchema, right } from './support/stores.js'

const server = await newDatabase()
const database = pgDatabase(pgPool(server.url, { max: 4 }))
t.teardown(async () => {
  await database.close()
  await server.stop()
})

interface Cart {
  lines: { sku: string; count: number }[]
  note?: string
}

const isoDate = z.codec(z.iso.datetime(), z.date(), {
  decode: (text) => new Date(text),
  encode: (date) => date.toISOString(),
})

const carts = {
  zod: K.sessionKey(
    'cart',
    z.object({
      lines: z.array(z.object({ sku: z.string(), count: z.number().int() })),
      note: z.string().optional(),
    }),
  ),
  valibot: K.sessionKey(
    'cart',
    v.object({
      lines: v.array(v.object({ sku: v.string(), count: v.pipe(v.number(), v.integer()) })),
      note: v.optional(v.string()),
    }),
  ),
  arktype: K.sessionKey(
    'cart',
    type({ lines: type({ sku: 'string', count: 'number.integer' }).array(), 'note?': 'string' }),
  ),
}

const cart: Cart = { lines: [{ sku: 'tea', count: 2 }] }
const SECRET = 'sesame-1234'

const roundTrip = (t: Test, key: K.SessionKey<Cart>): void => {
  t.test('a value is stored as JSON, read with its type, and updated', async (t) => {
    const store = sessionStore(database, { schema: freshSchema() })
    const saved = await right(K.saveSession(K.sessionSet(key, cart)(K.buildSession(store))))
    const loaded = O.toNullable(await right(K.loadSession(store, K.sessionToken(saved)))) ?? saved
    t.strictSame(O.toNullable(K.sessionRef(key)(loaded)), cart)
    const more = K.sessionUpdate(
      key,
      ({ lines }) => ({ lines: lines.map(({ sku, count }) => ({ sku, count: count + 1 })), note: 'soon' }),
      cart,
    )
    const updated = await right(K.saveSession(more(loaded)))
    t.strictSame(updated.store.get('cart'), { lines: [{ sku: 'tea', count: 3 }], note: 'soon' })
    t.equal(K.sessionSet(key, cart)(saved).edits.size, 0, 'an equal value is no change')
  })

  t.test('what does not fit is a typed error, when it is set and when it is read', (t) => {
    const session = K.buildSession(memoryStore())
    const wrong = { lines: [{ sku: 'tea', count: SECRET }] } as unknown as Cart
    t.throws(() => K.sessionSet(key, wrong)(session), { name: 'EncodeError', key: 'cart' })
    const stored = K.sessionSet('cart', { lines: [{ sku: 'tea', count: SECRET }] })(session)
    const read = K.sessionRefStrict(key)(stored)
    if (E.isRight(read)) throw new Error('it was read')
    t.match(read.left, { name: 'DecodeError', message: /lines\.0\.count|lines\[0\]\.count/ })
    t.notOk(read.left.message.includes(SECRET), 'the message does not tell the value')
    t.strictSame(K.sessionRef(key, cart)(stored), cart, 'the fallback')
    t.end()
  })
}

for (const [vendor, key] of Object.entries(carts))
  t.test(vendor, (t) => {
    roundTrip(t, key as K.SessionKey<Cart>)
    t.end()
  })

t.test('zod: dates, brands, defaults and transforms that have an inverse', async (t) => {
  const Visit = z.object({ at: isoDate, user: z.string().brand<'User'>(), seen: z.number().default(0) })
  const key = K.sessionKey('visit', Visit)
  const visit = Visit.parse({ at: '2026-01-02T03:04:05.000Z', user: 'ada' })
  const session = K.sessionSet(key, visit)(K.buildSession(memoryStore()))
  t.strictSame(session.store.get('visit'), { at: '2026-01-02T03:04:05.000Z', user: 'ada', seen: 0 })
  const read = O.toNullable(K.sessionRef(key)(session))
  t.strictSame([read?.at.getTime(), read?.seen], [visit.at.getTime(), 0])
  const older = K.sessionSet('visit', { at: '2026-01-02T03:04:05.000Z', user: 'ada' })(
    K.buildSession(memoryStore()),
  )
  t.equal(O.toNullable(K.sessionRef(key)(older))?.seen, 0, 'the default of a value that was stored before')
})

t.test(
  'a schema that cannot store its values is an error when the key is made, or when a value is set',
  async (t) => {
    t.throws(
      () =>
        K.sessionKey(
          'n',
          z.string().transform((text) => text.length),
        ),
      /without an inverse/,
    )
    t.throws(
      () =>
        K.sessionKey(
          'n',
          v.pipeAsync(
            v.string(),
            v.checkAsync(async () => true),
          ) as never,
        ),
      /asynchronous/,
    )
    for (const schema of [null, {}, 'text', { decode: 1 }])
      t.throws(() => K.sessionKey('n', schema as never), TypeError)
    const session = K.buildSession(memoryStore())
    const refuses = (schema: Schema<never>, value: unknown, reason: RegExp) => {
      const key = { name: 'n', codec: codecOf(schema as Schema<unknown>) }
      t.throws(() => K.sessionSet(key, value)(session), { name: 'EncodeError', message: reason })
    }
    const nested = z.object({ n: z.string().transform((text) => text.length) })
    refuses(nested as never, { n: 4 }, /without an inverse/)
    refuses(
      v.pipe(
        v.number(),
        v.transform((n) => n + 1),
      ) as never,
      1,
      /changes the value/,
    )
    refuses(type('number').pipe((n) => n + 1) as never, 1, /changes the value/)
    refuses(v.date() as never, new Date(0), /Date is not JSON/)
    refuses(z.object({ n: z.number().refine(async () => true) }) as never, { n: 1 }, /asynchronous|Async/)
    refuses(type('number').pipe(async (n) => n) as never, 1, /asynchronous/)
    refuses(
      v.pipe(
        v.number(),
        v.check(() => {
          throw new RangeError('mine')
        }),
      ) as never,
      1,
      /RangeError/,
    )
  },
)

t.test('a function of a schema that throws makes a value misfit, and does not end the process', async (t) => {
  const parsed = z.codec(z.string(), z.object({ a: z.number() }), {
    decode: (text) => JSON.parse(text) as { a: number },
    encode: (value) => JSON.stringify(value),
  })
  const key = K.sessionKey('n', z.object({ parsed }))
  const session = K.buildSession(memoryStore())
  const stored = K.sessionSet('n', { parsed: '{bad' })(session)
  t.strictSame(K.sessionRef(key, 'none')(stored), 'none')
  t.match(K.sessionRefStrict(key)(stored), { _tag: 'Left', left: { _tag: 'DecodeError' } })
  t.strictSame(O.toNullable(K.sessionRef(key)(K.sessionSet(key, { parsed: { a: 1 } })(session)))?.parsed, {
    a: 1,
  })
  // These functions throw for a missing value.
  const custom = K.sessionKey(
    'c',
    z.custom<{ type: 'a' }>((value) => (value as { type: string }).type === 'a'),
  )
  t.equal(O.toNullable(K.sessionRef(custom)(K.sessionSet(custom, { type: 'a' })(session)))?.type, 'a')
  const checked = K.sessionKey(
    'd',
    z.any().refine((value) => (value as string).length > 0),
  )
  t.equal(O.toNullable(K.sessionRef(checked)(K.sessionSet(checked, 'x')(session))), 'x')
  // An unhandled rejection fails this spec.
  await new Promise((resolve) => setTimeout(resolve, 20))
})

t.test('what is set can be read: undefined members, and objects without a prototype', (t) => {
  const session = K.buildSession(memoryStore())
  const refused: readonly Schema<never>[] = [
    v.object({ a: v.undefinedable(v.string()) }) as never,
    type({ a: 'string|undefined' }) as never,
    z.object({ a: z.union([z.string(), z.undefined()]) }) as never,
  ]
  for (const [index, schema] of refused.entries()) {
    const key = { name: 'n', codec: codecOf(schema as Schema<unknown>) }
    t.throws(() => K.sessionSet(key, { a: undefined })(session), { name: 'EncodeError' }, String(index))
    t.strictSame(O.toNullable(K.sessionRef(key)(K.sessionSet(key, { a: 'x' })(session))), { a: 'x' })
  }
  const optional = K.sessionKey('n', v.object({ a: v.optional(v.string()) }))
  t.strictSame(O.toNullable(K.sessionRef(optional)(K.sessionSet(optional, { a: undefined })(session))), {})
  const groups = /(?<word>\w+)/.exec('tea')?.groups ?? {}
  for (const schema of [v.record(v.string(), v.string()), z.record(z.string(), z.string())]) {
    const key = K.sessionKey('groups', schema as Schema<Record<string, string>> as never)
    t.strictSame(K.sessionSet(key, groups as never)(session).store.get('groups'), { word: 'tea' })
  }
  t.end()
})

t.test('no message repeats the value, and the place is that of the value', (t) => {
  const session = K.sessionSet('n', SECRET)(K.buildSession(memoryStore()))
  const schemas: readonly Schema<never>[] = [
    type('string.email').and('string>=200') as never,
    type('string.json') as never,
    type('string.email') as never,
    v.pipe(v.string(), v.email()) as never,
    v.number() as never,
    z.email() as never,
  ]
  for (const [index, schema] of schemas.entries()) {
    const read = K.sessionRefStrict({ name: 'n', codec: codecOf(schema as Schema<unknown>) })(session)
    const message = E.isLeft(read) ? read.left.message : ''
    t.ok(
      message !== '' && !message.includes(SECRET) && !/ at \d/.test(message),
      `${String(index)}: ${message}`,
    )
  }
  t.end()
})

t.test(
  'types: the values of a key have the type of the schema, and a transform without an inverse is rejected',
  (t) => {
    const session = K.buildSession(memoryStore())
    const lines: string | undefined = K.sessionRef(carts.zod, cart)(session).lines[0]?.sku
    const counts: number | undefined = K.sessionRef(carts.arktype, cart)(session).lines[0]?.count
    t.strictSame([lines, counts], ['tea', 2])
    // @ts-expect-error a number is no cart
    t.throws(() => K.sessionSet(carts.valibot, 1)(session), { name: 'EncodeError' })
    const length = v.pipe(
      v.string(),
      v.transform((text) => text.length),
    )
    // @ts-expect-error the schema has a transform without an inverse
    t.ok(K.sessionKey('n', length))
    const parsed = type({ at: 'string.date.parse' })
    const isRefused: unknown extends Storable<typeof parsed> ? false : true = true
    t.strictSame([isRefused, typeof parsed], [true, 'function'])
    const Name = z.string()
    t.equal(codecOf(Name), codecOf(Name), 'a schema has one codec')
    t.end()
  },
)

t.test('a column of JSON takes a schema', async (t) => {
  const schema = freshSchema()
  await rowsOf(database, `create schema ${schema}`)
  await rowsOf(database, `create table ${schema}.notes (id int primary key, body jsonb not null)`)
  const Body = z.object({ title: z.string(), due: isoDate })
  const notes = R.record({
    table: `${schema}.notes`,
    key: 'id',
    columns: { id: R.int4, body: R.jsonb(Body) },
  })
  const due = new Date('2026-01-02T03:04:05Z')
  const built = notes.build(database, { id: 1, body: { title: 'tea', due } })
  if (E.isLeft(built)) throw built.left
  const saved = await right(notes.save(built.right))
  const found = O.toNullable(await right(notes.find(database, saved.id)))
  t.strictSame([found?.body.title, found?.body.due.getTime()], ['tea', due.getTime()])
  t.strictSame(await rowsOf(database, `select body->>'due' as due from ${schema}.notes`), [
    { due: due.toISOString() },
  ])
})

t.test('the answers of a flow fit a schema, and the page shows why not', async (t) => {
  const answers = {
    zod: z.object({ email: z.email() }),
    valibot: v.object({ email: v.pipe(v.string(), v.email()) }),
    arktype: type({ email: 'string.email' }),
  }
  for (const [vendor, answer] of Object.entries(answers)) {
    const survey = flow({ name: `survey ${vendor}`, input: z.object({}) }, function* () {
      const { email } = yield* suspend('email', answer as Schema<{ email: string }>, ({ url, problems }) =>
        [url, ...problems].join('\n'),
      )
      return yield* suspend('done', z.object({}), () => `thank you, ${email}`)
    })
    const handler = flowHandler(survey, { at: `/${vendor}`, start: () => ({}), done: () => '/' })
    const store = memoryStore()
    let session = K.buildSession(store)
    const ask = async (method: string, url: string, body?: unknown) => {
      const headers = { 'sec-fetch-site': 'same-origin' }
      const reply = await right(K.withSession(session, () => handler({ method, url, headers, body })))
      return reply
    }
    session = await right(K.saveSession(K.sessionSet('a', 1)(session)))
    const start = (await ask('GET', `/${vendor}`)).headers['Location'] ?? ''
    const [url = ''] = (await ask('GET', start)).body.split('\n')
    const wrong = await ask('POST', url, { email: SECRET })
    t.equal(wrong.status, 422, vendor)
    t.match(wrong.body, /email/)
    const next = await ask('POST', url, { email: 'ada@example.org' })
    t.equal(next.status, 303)
    t.equal((await ask('GET', next.headers['Location'] ?? '')).body, 'thank you, ada@example.org')
  }
})

t.test('the secret of an answer takes a schema of each library', (t) => {
  const secrets = {
    zod: secretAnswer(z.string().min(8)),
    valibot: secretAnswer(v.pipe(v.string(), v.minLength(8))),
    arktype: secretAnswer(type('string >= 8')),
  }
  for (const [vendor, secret] of Object.entries(secrets)) {
    const SignIn = io.strict({ name: io.string, password: secret })
    const given = SignIn.decode({ name: 'ada', password: 'long enough' })
    if (E.isLeft(given)) throw new Error(`${vendor}: it was refused`)
    t.equal(given.right.password.reveal(), 'long enough')
    t.strictSame(SignIn.encode(given.right), { name: 'ada', password: '[secret]' })
    t.ok(E.isLeft(SignIn.decode({ name: 'ada', password: 'short' })))
  }
  t.end()
})
