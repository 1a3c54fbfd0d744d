// Laws 6 and 13: whose sessions there are, ending them while they are in use, and collecting what has expired.

import assert from 'node:assert/strict'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { collectGarbage } from '../collector/collect.js'
import { currentSession, updateCurrentSession, withSession } from '../current/current-session.js'
import { endSessions, sessionsOf } from '../current/principal.js'
import { saveSession } from '../current/verbs.js'
import type { Session, SessionStore } from '../port/session-store.js'
import { sessionFor, sessionPrincipal } from '../session/principal.js'
import { sessionDel, sessionRef, sessionSet } from '../session/values.js'
import { type Law, left, many, reload, reloaded, right, stored, tagOf } from './subject.js'

const idsOf = async (store: SessionStore, principal: string): Promise<readonly string[]> =>
  (await right(sessionsOf(store, principal))).map(({ id }) => id).toSorted()

const ids = (...sessions: readonly Session[]): readonly string[] => sessions.map(({ id }) => id).toSorted()

const principalLaws: readonly Law[] = [
  {
    law: 6,
    name: 'no resurrection: the sessions of a principal are listed, whenever it was said whose they are',
    check: async ({ store }) => {
      const [ada, bob] = [`ada ${String(Math.random())}`, `bob ${String(Math.random())}`]
      const first = await stored(store, sessionFor(ada))
      const second = await right(saveSession(sessionFor(ada)(await stored(store, sessionSet('a', 1)))))
      const other = await stored(store, sessionFor(bob))
      assert.deepEqual(await idsOf(store, ada), ids(first, second))
      const [listed] = await right(sessionsOf(store, bob))
      assert.ok(listed !== undefined && listed.createdAt < listed.expiration)
      assert.equal(sessionRef(sessionPrincipal, '')(await reload(second)), ada)
      await right(saveSession(sessionFor(bob)(first)))
      await right(saveSession(sessionDel(sessionPrincipal)(other)))
      assert.deepEqual([await idsOf(store, ada), await idsOf(store, bob)], [ids(second), ids(first)])
      const current = withSession(first, () => sessionsOf(store, bob))
      assert.deepEqual(
        (await right(current)).map((each) => each.current),
        [true],
      )
    },
  },
  {
    law: 6,
    name: 'no resurrection: of sessions that are ended while requests are in flight on them, none comes back',
    check: async ({ store }) => {
      const ada = `ada ${String(Math.random())}`
      const mine = await many(5, () => stored(store, sessionFor(ada), sessionSet('n', 0)))
      const other = await stored(store, sessionSet('n', 0))
      const held = await many(100, (index) => reload(mine[index % 5] ?? other))
      const save = (session: Session, index: number) =>
        saveSession(sessionSet(`late ${String(index)}`, 1)(session))()
      const results = Promise.all(held.slice(0, 50).map(save))
      const ended = await right(endSessions(store, ada))
      for (const result of [...(await results), ...(await Promise.all(held.slice(50).map(save)))])
        if (E.isLeft(result)) assert.equal(tagOf(result.left), 'SessionGone')
      assert.deepEqual(ended.toSorted(), ids(...mine))
      for (const session of held) assert.equal(await reloaded(session), undefined)
      assert.deepEqual([await idsOf(store, ada), (await reload(other)).id], [[], other.id])
    },
  },
  {
    law: 6,
    name: 'no resurrection: ending all but one, or only one, leaves the others; ending the current one ends its request',
    check: async ({ store }) => {
      const ada = `ada ${String(Math.random())}`
      const [here, there] = [await stored(store, sessionFor(ada)), await stored(store, sessionFor(ada))]
      assert.deepEqual(await right(endSessions(store, ada, { except: here.id })), [there.id])
      assert.deepEqual(await idsOf(store, ada), [here.id])
      const foreign = await stored(store, sessionFor(`bob ${ada}`))
      assert.deepEqual(await right(endSessions(store, ada, { only: foreign.id })), [])
      assert.ok(await reload(foreign), "nobody ends another's session")
      const another = await stored(store, sessionFor(ada))
      assert.deepEqual(await right(endSessions(store, ada, { only: another.id })), [another.id])
      assert.equal(await reloaded(another), undefined)
      const everywhere = pipe(
        updateCurrentSession(sessionSet('left', 'behind')),
        TE.chainW(() => endSessions(store, ada)),
        TE.chainFirstW(() => TE.fromTask(() => currentSession())),
      )
      assert.deepEqual(await right(withSession(await reload(here), () => everywhere)), [here.id])
      assert.equal(tagOf(await left(saveSession(sessionSet('more', 1)(here)))), 'SessionGone')
    },
  },
]

const collectionLaws: readonly Law[] = [
  {
    law: 13,
    name: 'collection is polite: bounded batches of what has expired, and nothing that lives',
    lifetime: { idleMs: 60_000 },
    check: async ({ store, elapse }) => {
      const old = await many(25, () => stored(store, sessionSet('a', 1), sessionSet('b', 2)))
      await elapse(40_000)
      const [used, young] = [old.slice(0, 5), await many(5, () => stored(store, sessionSet('a', 1)))]
      for (const session of used) await right(saveSession(sessionSet('a', 2)(await reload(session))))
      await elapse(21_000)
      const first = await right(store.collect(10))
      assert.ok(first.sessions <= 10, 'a batch is bounded')
      const rest = await right(collectGarbage(store, { batch: 10, pauseMs: 0 }))
      assert.deepEqual([first.sessions + rest.sessions, rest.finished], [20, true])
      for (const session of [...used, ...young]) assert.ok((await reload(session)).store.size > 0)
      // What lived on is looked at again.
      await elapse(61_000)
      assert.equal((await right(collectGarbage(store))).sessions, 10)
    },
  },
  {
    law: 13,
    name: 'collection is polite: any number of collectors may run, beside the requests',
    lifetime: { idleMs: 60_000 },
    check: async ({ store, elapse }) => {
      await many(60, () => stored(store, sessionSet('a', 1)))
      await elapse(61_000)
      const live = await many(10, () => stored(store, sessionSet('n', 0)))
      const collectors = many(4, () => right(collectGarbage(store, { batch: 7, pauseMs: 0 })))
      const saved = await many(50, async (index) =>
        right(saveSession(sessionSet(`key ${String(index)}`, 1)(await reload(live[index % 10] as Session)))),
      )
      const sessions = (await collectors).reduce((sum, each) => sum + each.sessions, 0)
      assert.deepEqual([sessions, saved.length], [60, 50])
      for (const session of live) assert.equal((await reload(session)).store.size, 6)
    },
  },
]

export const listingLaws: readonly Law[] = [...principalLaws, ...collectionLaws]
