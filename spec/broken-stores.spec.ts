// The suite can fail: each of these stores breaks one law in a way that real stores have done, and the
// suite says which.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import type { SessionStore } from '../lib/port/session-store.js'
import { type Entries, noEntries, record, setTo } from '../lib/session/edits.js'
import type { Snapshot } from '../lib/session/session.js'
import type { SecretHash } from '../lib/session/token.js'
import { type OpenSubject, sessionStoreLaws } from '../lib/testing/index.js'
import { openMemory } from './support/stores.js'

const breaking =
  (change: (store: SessionStore) => Partial<SessionStore>): OpenSubject =>
  async (lifetime) => {
    const subject = await openMemory(lifetime)
    return { ...subject, store: { ...subject.store, ...change(subject.store) } }
  }

/** The numbers of the laws that the suite finds broken. */
const brokenLaws = async (open: OpenSubject): Promise<readonly number[]> => {
  const broken = new Set<number>()
  for (const { name, run } of sessionStoreLaws(open)) {
    const number = Number(/^law (\d+)/.exec(name)?.[1])
    await run().catch(() => broken.add(number))
  }
  return [...broken].sort((a, b) => a - b)
}

const lastSecret = new Map<string, SecretHash>()
const lastLoaded = new Map<string, Entries>()

const stores: readonly [string, number, (store: SessionStore) => Partial<SessionStore>][] = [
  [
    'writes the whole hash, as it was when it was loaded',
    4,
    (store) => ({
      load: (id, secret) =>
        pipe(
          store.load(id, secret),
          TE.tapIO(
            (found) => () => O.map((snapshot: Snapshot) => lastLoaded.set(id, snapshot.entries))(found),
          ),
        ),
      save: (id, edits) =>
        store.save(
          id,
          (lastLoaded.get(id) ?? noEntries).reduce(
            (all, value, key) => (all.has(key) ? all : record(all, key, setTo(value))),
            edits,
          ),
        ),
    }),
  ],
  [
    'saves a destroyed session as a new one',
    6,
    (store) => ({
      create: (id, secret, entries) => {
        lastSecret.set(id, secret)
        return store.create(id, secret, entries)
      },
      save: (id, edits) =>
        pipe(
          store.save(id, edits),
          TE.orElse(() => store.create(id, lastSecret.get(id) as SecretHash, noEntries)),
          TE.orElseW(() => TE.right({ revision: 2, expiration: 0 })),
        ),
    }),
  ],
  [
    'creates by an upsert',
    6,
    (store) => ({
      create: (id, secret, entries) =>
        pipe(
          store.destroy(id),
          TE.chainW(() => store.create(id, secret, entries)),
        ),
    }),
  ],
  [
    'moves the expiration at every load',
    2,
    (store) => ({
      load: (id, secret) => pipe(store.load(id, secret), TE.map(O.map((found) => ({ ...found, due: true })))),
    }),
  ],
  [
    'never moves the expiration',
    11,
    (store) => ({
      touch: (id) =>
        pipe(
          store.refresh(id),
          TE.map(() => ({ revision: 1, expiration: 0 })),
        ),
    }),
  ],
  ['opens a session by its id alone', 12, (store) => ({ load: (id) => store.refresh(id) })],
  ['lets every rotation win', 12, () => ({ rotate: () => TE.right(undefined) })],
  [
    'keeps deleted keys',
    4,
    (store) => ({
      save: (id, edits) =>
        store.save(
          id,
          edits.filter((edit) => edit._tag === 'Set'),
        ),
    }),
  ],
]

t.test('the suite finds nothing wrong with a store that keeps the laws', async (t) => {
  t.strictSame(await brokenLaws(openMemory), [])
})

for (const [name, law, change] of stores)
  t.test(`the suite finds law ${String(law)} broken by a store that ${name}`, async (t) => {
    const found = await brokenLaws(breaking(change))
    t.ok(found.includes(law), `found broken: ${found.join(', ')}`)
  })
