// Law 12: tokens, secrets and their rotation.

import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { collectGarbage } from '../collector/collect.js'
import {
  buildSession,
  destroySession,
  loadSession,
  rotateSession,
  saveSession,
  sessionToken,
} from '../current/verbs.js'
import { freshId } from '../session/token.js'
import { sessionSet } from '../session/values.js'
import {
  counted,
  type Law,
  left,
  many,
  reload,
  reloaded,
  right,
  stored,
  storedValues,
  tagOf,
} from './subject.js'

const malformed = (token: string): readonly string[] => [
  '',
  'x',
  token.slice(0, -1),
  `${token}A`,
  ` ${token}`,
  `${token}\n`,
  token.toUpperCase(),
  token.replace('.', ':'),
  `${token.slice(0, -1)}=`,
  `'; drop schema keyrow; --${token}`,
  '\u0000'.repeat(80),
  'é'.repeat(80),
  token.repeat(20_000),
]

export const tokenLaws: readonly Law[] = [
  {
    law: 12,
    name: 'the credential is not the id: a malformed token is no session and costs no query',
    check: async (subject) => {
      const session = await stored(subject.store, sessionSet('user', 'ada'))
      const { store, calls } = counted(subject.store)
      for (const token of malformed(sessionToken(session)))
        assert.ok(O.isNone(await right(loadSession(store, token))), token.slice(0, 100))
      assert.deepEqual(calls, [])
    },
  },
  {
    law: 12,
    name: 'the credential is not the id: an unknown, forged or swapped token opens nothing and is never adopted',
    check: async ({ store }) => {
      const [ada, bob] = [
        await stored(store, sessionSet('user', 'ada')),
        await stored(store, sessionSet('user', 'bob')),
      ]
      const [adaSecret, bobSecret] = [ada, bob].map((session) => sessionToken(session).split('.')[1])
      const forged = [
        `${ada.id}.${String(bobSecret)}`,
        `${bob.id}.${String(adaSecret)}`,
        `${ada.id}.${'A'.repeat(43)}`,
        sessionToken(buildSession(store)),
      ]
      for (const token of forged) assert.ok(O.isNone(await right(loadSession(store, token))), token)
      assert.deepEqual(await storedValues(ada), { user: 'ada' })
    },
  },
  {
    law: 12,
    name: 'the credential is not the id: a store that knows its ids knows those of ended sessions, and no others',
    lifetime: { idleMs: 60_000 },
    check: async ({ store, elapse }) => {
      await right(store.prepare)
      const { ids } = store
      if (ids === undefined) return
      const [ended, expired] = [
        await stored(store, sessionSet('a', 1)),
        await stored(store, sessionSet('a', 1)),
      ]
      await right(destroySession(ended))
      await elapse(61_000)
      await right(collectGarbage(store))
      for (const { id } of [ended, expired, buildSession(store)]) assert.equal(ids.originOf(id), 'own')
      assert.notEqual(ended.id, expired.id)
      for (let n = 0; n < 100; n += 1) assert.notEqual(ids.originOf(freshId()), 'own')
    },
  },
  {
    law: 12,
    name: 'the credential is not the id: rotation changes the secret alone, and the old one is dead',
    check: async ({ store }) => {
      const before = sessionSet('unsaved', 1)(await stored(store, sessionSet('user', 'ada')))
      const after = await right(rotateSession(before))
      assert.equal(after.id, before.id)
      assert.equal(after.edits, before.edits)
      assert.equal(await reloaded(before), undefined)
      assert.deepEqual(await storedValues(after), { user: 'ada' })
      assert.deepEqual(await storedValues(await right(saveSession(after))), { user: 'ada', unsaved: 1 })
    },
  },
  {
    law: 12,
    name: 'the credential is not the id: of many rotations at once exactly one wins',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('user', 'ada'))
      const results = await many(10, () => rotateSession(session)())
      const winners = results.filter(E.isRight)
      for (const loser of results.filter(E.isLeft)) assert.equal(tagOf(loser.left), 'SaveConflict')
      assert.equal(winners.length, 1)
      for (const winner of winners) assert.deepEqual(await storedValues(winner.right), { user: 'ada' })
    },
  },
  {
    law: 12,
    name: 'the credential is not the id: within its grace the previous secret opens, but does not rotate',
    lifetime: { rotationGraceMs: 10_000 },
    check: async (subject) => {
      const before = await stored(subject.store, sessionSet('user', 'ada'))
      const after = await right(rotateSession(before))
      await subject.elapse(5_000)
      assert.deepEqual(await storedValues(before), { user: 'ada' })
      assert.equal(tagOf(await left(rotateSession(before))), 'SaveConflict')
      await subject.elapse(6_000)
      assert.equal(await reloaded(before), undefined)
      assert.deepEqual(await storedValues(after), { user: 'ada' })
    },
  },
  {
    law: 12,
    name: 'the credential is not the id: a session that is printed does not show its secret',
    check: async ({ store }) => {
      const session = await reload(await stored(store, sessionSet('user', 'ada')))
      const secret = sessionToken(session).split('.')[1] ?? assert.fail('no secret')
      for (const print of [
        inspect(session, { depth: 9, showHidden: true }),
        JSON.stringify(session.token),
        String(session.token),
      ])
        assert.ok(!print.includes(secret), print)
      assert.ok(sessionToken(session).includes(session.id))
    },
  },
]
