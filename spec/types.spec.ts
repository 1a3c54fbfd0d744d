// Tests the public types. `npm run typecheck` checks this file. A run of the file only shows that it loads.

import { expectTypeOf } from 'expect-type'
import type { Either } from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import type { Option } from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Map as HashMap } from 'immutable'
import * as D from 'io-ts'
import pg from 'pg'
import postgres from 'postgres'
import t from 'tap'
import { pgDatabase } from '../lib/db/pg.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { pgStore } from '../lib/entry/pg.js'
import type * as S from '../lib/entry/store.js'
import * as F from '../lib/index.js'
import * as P from '../lib/promise/index.js'
import { memoryStore } from '../lib/store/memory.js'

interface UserIdBrand {
  readonly UserId: unique symbol
}
const UserId = D.brand(D.string, (text): text is D.Branded<string, UserIdBrand> => text !== '', 'UserId')
type UserId = D.TypeOf<typeof UserId>

const cart = F.sessionKey('cart', D.array(D.type({ sku: D.string, count: D.number })))
const user = F.sessionKey('user', UserId)
type Line = { readonly sku: string; readonly count: number }

t.test('sessions are values that cannot be changed', (t) => {
  expectTypeOf<F.Session>().toExtend<F.ActiveRecord<F.SessionStore, F.SessionId>>()
  expectTypeOf<F.Session['store']>().toEqualTypeOf<HashMap<string, F.Json>>()
  expectTypeOf<F.Session['expiration']>().toEqualTypeOf<Option<number>>()
  const session = F.buildSession(memoryStore())
  expectTypeOf(session).toEqualTypeOf<F.Session>()
  const change = () => {
    // @ts-expect-error a session is read only
    session.id = session.token.id
  }
  t.throws(change, TypeError)
  t.end()
})

t.test('reading and editing keep the types of keys', (t) => {
  const session = F.buildSession(memoryStore())
  expectTypeOf(F.sessionRef('x')(session)).toEqualTypeOf<Option<F.Json>>()
  expectTypeOf(F.sessionRef('x', 0)(session)).toEqualTypeOf<F.Json>()
  expectTypeOf(F.sessionRef(cart)(session)).toEqualTypeOf<Option<readonly Line[]>>()
  expectTypeOf(F.sessionRef(cart, [])(session)).toEqualTypeOf<readonly Line[]>()
  expectTypeOf(F.sessionRef(cart, undefined)(session)).toEqualTypeOf<readonly Line[] | undefined>()
  expectTypeOf(F.sessionRef(user)(session)).toEqualTypeOf<Option<UserId>>()
  expectTypeOf(F.sessionRefStrict(cart)(session)).toEqualTypeOf<
    Either<F.DecodeError, Option<readonly Line[]>>
  >()
  const blob = F.sessionKey('blob', D.UnknownRecord)
  expectTypeOf(F.sessionRef(blob, {})(session)['a']).toEqualTypeOf<unknown>()
  expectTypeOf(F.sessionRef(F.sessionKey('any', D.unknown), 0)(session)).toEqualTypeOf<unknown>()
  expectTypeOf(P.sessionRef(cart)(session)).toEqualTypeOf<readonly Line[] | undefined>()
  expectTypeOf(P.sessionRef(cart, [])(session)).toEqualTypeOf<readonly Line[]>()
  expectTypeOf(pipe(session, F.sessionSet(cart, []), F.sessionDel('x'))).toEqualTypeOf<F.Session>()
  expectTypeOf(flow(F.sessionSet(cart, []), F.sessionDel(user))(session)).toEqualTypeOf<F.Session>()
  // A changed copy of a read value can be set.
  pipe(session, F.sessionSet(cart, [...F.sessionRef(cart, [])(session), { sku: 'tea', count: 1 }]))
  t.end()
})

t.test('what does not fit does not compile', (t) => {
  const wrong = (): readonly unknown[] => [
    // @ts-expect-error the value has another type
    F.sessionSet(cart, [{ sku: 'tea', count: 'one' }]),
    // @ts-expect-error a text is not a branded text
    F.sessionSet(user, 'ada'),
    // @ts-expect-error a Date is not JSON: it needs a codec
    F.sessionSet('at', new Date()),
    // @ts-expect-error undefined is not JSON
    F.sessionSet('x', undefined),
    // @ts-expect-error a function is not JSON
    F.sessionSet('x', () => 1),
    // @ts-expect-error the session comes last
    F.sessionSet(F.buildSession(memoryStore()), 'x', 1),
    // @ts-expect-error a plain text is not an id
    F.buildSession(memoryStore()).handle.destroy('id'),
    // @ts-expect-error a value that was read is read only
    F.sessionRef(cart, [])(F.buildSession(memoryStore())) satisfies Line[],
  ]
  t.type(wrong, 'function')
  t.end()
})

t.test('effects say how they fail', (t) => {
  const session = F.buildSession(memoryStore())
  expectTypeOf(F.saveSession(session)).toEqualTypeOf<
    TE.TaskEither<
      F.DriverError | F.SchemaMismatch | F.SessionGone | F.SessionClosed | F.SaveConflict | F.ProofRequired,
      F.Session
    >
  >()
  expectTypeOf(F.loadSession(memoryStore(), '')).toEqualTypeOf<
    TE.TaskEither<S.StoreError, Option<F.Session>>
  >()
  expectTypeOf(F.withSession(session, () => TE.left(7))).toEqualTypeOf<
    TE.TaskEither<number | F.SessionError, never>
  >()
  expectTypeOf(F.currentSession).toEqualTypeOf<
    TE.TaskEither<F.NoCurrentSession | F.SessionClosed, F.Session>
  >()
  expectTypeOf(P.withSession(session, () => 1)).toEqualTypeOf<Promise<number>>()
  expectTypeOf(P.withSession(session, async () => Promise.resolve('a'))).toEqualTypeOf<Promise<string>>()
  expectTypeOf(P.loadSession).returns.toEqualTypeOf<Promise<F.Session | undefined>>()
  const tags = (error: F.SessionError): F.SessionError['_tag'] => error._tag
  expectTypeOf(tags).returns.toEqualTypeOf<
    | 'DriverError'
    | 'DecodeError'
    | 'EncodeError'
    | 'SessionGone'
    | 'SessionClosed'
    | 'ProofRequired'
    | 'KeyNotLoaded'
    | 'NoCurrentSession'
    | 'SaveConflict'
    | 'SchemaMismatch'
  >()
  t.end()
})

t.test('some keys are named as anywhere: by names, or by typed keys', (t) => {
  const session = F.buildSession(memoryStore())
  const load = () => F.loadSession(memoryStore(), '', { keys: ['name', cart, user] })
  expectTypeOf(load).returns.toEqualTypeOf<TE.TaskEither<S.StoreError, Option<F.Session>>>()
  expectTypeOf(F.loadKeys(cart, 'name')(session)).toEqualTypeOf<
    TE.TaskEither<
      F.DriverError | F.SchemaMismatch | F.SessionGone | F.SessionClosed | F.ProofRequired,
      F.Session
    >
  >()
  expectTypeOf(F.loadCurrentKeys(cart)).toEqualTypeOf<TE.TaskEither<F.SessionError, F.Session>>()
  const fetched = () => P.loadKeys('name')(session)
  expectTypeOf(fetched).returns.toEqualTypeOf<Promise<F.Session>>()
  const current = () => P.loadCurrentKeys(cart, 'name')
  expectTypeOf(current).returns.toEqualTypeOf<Promise<F.Session>>()
  const wrong = (): readonly unknown[] => [
    // @ts-expect-error `keys` is a list of keys
    F.loadSession(memoryStore(), '', { keys: 'name' }),
    // @ts-expect-error the session comes last
    F.loadKeys(session, 'name'),
  ]
  t.type(wrong, 'function')
  t.end()
})

t.test('a task of the other face in a promise body is an error, not lost in silence', async (t) => {
  const session = F.buildSession(memoryStore())
  const mixed = P.withSession(session, () => F.updateCurrentSession(F.sessionSet('a', 1)))
  await t.rejects(mixed, { message: /has to be run/ })
})

t.test('a pool of postgres.js fits, whatever its options', (t) => {
  const pools = () => [
    postgresDatabase(postgres()),
    postgresDatabase(postgres({ types: { bigint: postgres.BigInt }, transform: postgres.camel })),
  ]
  expectTypeOf(pools).returns.toEqualTypeOf<S.Database[]>()
  t.end()
})

t.test('a pool of node-postgres fits, and a client does not', (t) => {
  const pools = () => [
    pgDatabase(new pg.Pool()),
    pgDatabase(new pg.Pool({ types: pg.types, max: 1 })),
    pgStore(new pg.Pool(), { primary: true }).database,
    // @ts-expect-error a client is not a pool
    pgDatabase(new pg.Client()),
  ]
  expectTypeOf(pools).returns.toEqualTypeOf<S.Database[]>()
  t.end()
})

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- this is how a program declares its keys
  namespace Keyrow {
    interface SessionData {
      'spec:lines': readonly Line[]
    }
  }
}

t.test('a key that is declared has its type, without a codec', (t) => {
  const session = F.buildSession(memoryStore())
  expectTypeOf(F.sessionRef('spec:lines')(session)).toEqualTypeOf<Option<readonly Line[]>>()
  expectTypeOf(P.sessionRef('spec:lines')(session)).toEqualTypeOf<readonly Line[] | undefined>()
  expectTypeOf(P.sessionRef('spec:lines', [])(session)).toEqualTypeOf<readonly Line[]>()
  expectTypeOf(P.sessionRef('another')(session)).toEqualTypeOf<F.Json | undefined>()
  const name: string = 'any'
  F.sessionSet(name, 1)
  // @ts-expect-error a line has a count
  F.sessionSet('spec:lines', [{ sku: 'tea' }])
  // @ts-expect-error the lines are no text
  P.sessionUpdate('spec:lines', () => 'tea', [])
  const edited = P.sessionUpdate('spec:lines', (lines) => [...lines, { sku: 'tea', count: 1 }], [])(session)
  t.strictSame(P.sessionRef('spec:lines', [])(edited), [{ sku: 'tea', count: 1 }])
  t.end()
})
