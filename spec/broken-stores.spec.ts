// Checks that the suite of the laws can fail. Each of these stores breaks one law like some real store, and the suite
// must find this law.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { type Edits, setTo } from '../lib/core/edits.js'
import { emptySnapshot } from '../lib/core/session.js'
import { freshId, newIdempotencyKey, type SecretHash } from '../lib/core/token.js'
import { LIFETIME } from '../lib/core/well-known-keys.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import type { Change, SessionStore } from '../lib/store/contract.js'
import { type OpenSubject, sessionStoreLaws } from '../lib/testing/index.js'
import './support/pglite.mjs'
import { openIn, openMemory, right } from './support/stores.js'

const breaking =
  (change: (store: SessionStore) => Partial<SessionStore>): OpenSubject =>
  async (lifetime) => {
    const subject = await openMemory(lifetime)
    return { ...subject, store: { ...subject.store, ...change(subject.store) } }
  }

/** Returns the numbers of the laws that the suite finds broken. */
const brokenLaws = async (open: OpenSubject, among = /./): Promise<readonly number[]> => {
  const broken = new Set<number>()
  for (const { name, run } of sessionStoreLaws(open).filter((check) => among.test(check.name))) {
    const number = Number(/^law (\d+)/.exec(name)?.[1])
    await run().catch(() => broken.add(number))
  }
  return [...broken].sort((a, b) => a - b)
}

const lastSecret = new Map<string, SecretHash>()

type Break = (store: SessionStore) => Partial<SessionStore>

/** Makes a store that saves other edits than the given edits. */
const savesInstead =
  (edits: (change: Change) => Edits): Break =>
  (store) => ({ save: (id, change) => store.save(id, { ...change, edits: edits(change) }) })

const stores: readonly (readonly [string, number, Break])[] = [
  [
    'writes the whole hash, as it was when it was loaded',
    4,
    savesInstead(({ since, edits }) =>
      since.entries.reduce((all, value, key) => (all.has(key) ? all : all.set(key, setTo(value))), edits),
    ),
  ],
  ['keeps deleted keys', 4, savesInstead(({ edits }) => edits.filter((edit) => edit._tag !== 'Del'))],
  [
    'sets what an update gave when it was made',
    5,
    savesInstead(({ edits, entries }) =>
      edits.map((edit, key) => (edit._tag === 'Update' ? setTo(entries.get(key) ?? null) : edit)),
    ),
  ],
  [
    'saves every update twice',
    5,
    (store) => ({
      save: (id, change) =>
        pipe(
          store.save(id, change),
          TE.chainW(() => store.save(id, { ...change, save: newIdempotencyKey() })),
        ),
    }),
  ],
  [
    'saves a destroyed session as a new one',
    6,
    (store) => ({
      create: (id, secret, save, entries) => {
        lastSecret.set(id, secret)
        return store.create(id, secret, save, entries)
      },
      save: (id, change) =>
        pipe(
          store.save(id, change),
          TE.orElse(() => store.create(id, lastSecret.get(id) as SecretHash, change.save, change.entries)),
          TE.map((saved) => ({ touchDue: false, entries: change.entries, ...saved })),
        ),
    }),
  ],
  [
    'creates by an upsert',
    6,
    (store) => ({
      create: (id, secret, save, entries) =>
        pipe(
          store.destroy(id),
          TE.chainW(() => store.create(id, secret, save, entries)),
        ),
    }),
  ],
  [
    'moves the expiration at every load',
    2,
    (store) => ({
      load: (id, secret) =>
        pipe(store.load(id, secret), TE.map(E.map((found) => ({ ...found, touchDue: true })))),
    }),
  ],
  [
    'never moves the expiration',
    11,
    (store) => ({
      save: (id, change) => store.save(id, change),
      touch: () => TE.right({ revision: 1, expiration: 0 }),
    }),
  ],
  [
    'loads what was so one load before',
    11,
    (store) => {
      const before = new Map<string, Awaited<ReturnType<ReturnType<typeof store.load>>>>()
      return {
        load: (id, secret, reading) => async () => {
          const now = await store.load(id, secret, reading)()
          const last = before.get(id) ?? now
          before.set(id, now)
          return last
        },
      }
    },
  ],
  [
    'opens a session by its id alone',
    12,
    (store) => ({
      load: (id) => pipe(store.refresh(id, emptySnapshot), TE.map(E.fromOption(() => 'unknown' as const))),
    }),
  ],
  ['ends none of the sessions of a principal', 6, () => ({ endAll: () => TE.right([]) })],
  ['collects without a bound', 13, (store) => ({ deleteExpired: () => store.deleteExpired(1_000) })],
  [
    'collects nothing',
    13,
    () => ({ deleteExpired: () => TE.right({ sessions: 0, more: false, busy: false }) }),
  ],
  [
    "knows nothing of a session's own times",
    11,
    (store) => ({
      create: (id, secret, save, entries) => store.create(id, secret, save, entries.delete(LIFETIME)),
      save: (id, change) => {
        const edits = change.edits.delete(LIFETIME)
        return store.save(id, { ...change, edits, entries: change.entries.delete(LIFETIME) })
      },
    }),
  ],
  [
    "never gives a session the store's times again",
    11,
    (store) => ({
      save: (id, change) => {
        const isReset = change.edits.get(LIFETIME)?._tag === 'Del'
        return store.save(id, isReset ? { ...change, edits: change.edits.delete(LIFETIME) } : change)
      },
    }),
  ],
  ['takes every id for its own', 12, () => ({ ids: { fresh: freshId, originOf: () => 'own' as const } })],
  [
    'knows its ids only while their sessions live',
    12,
    () => ({ ids: { fresh: freshId, originOf: () => 'unknown' as const } }),
  ],
  ['lets every rotation win', 12, () => ({ rotate: () => TE.right(undefined) })],
]

t.test('the suite finds nothing wrong with a store that keeps the laws', async (t) => {
  t.strictSame(await brokenLaws(openMemory), [])
})

for (const [name, law, change] of stores)
  t.test(`the suite finds law ${String(law)} broken by a store that ${name}`, async (t) => {
    const found = await brokenLaws(breaking(change))
    t.ok(found.includes(law), `found broken: ${found.join(', ')}`)
  })

t.test('the suite finds law 7 broken by a store that does not say which transaction is open', async (t) => {
  const database = pgliteDatabase()
  t.teardown(() => right(database.close))
  const open = openIn(database)
  t.strictSame(await brokenLaws(open, /^law 7/), [])
  const unaware: OpenSubject = async (lifetime) => {
    const subject = await open(lifetime)
    return { ...subject, store: { ...subject.store, current: () => undefined } }
  }
  t.strictSame(await brokenLaws(unaware, /^law 7/), [7])
})
