import t from 'tap'
import { noEntries } from '../lib/core/edits.js'
import { freshId, newIdempotencyKey, Token } from '../lib/core/token.js'
import { memoryStore } from '../lib/store/memory.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { openMemory } from './support/stores.js'

for (const { name, run } of sessionStoreLaws(openMemory)) t.test(name, run)

t.test('the id of an ended session is reserved for an hour', async (t) => {
  const clock = { now: 1_000 }
  const store = memoryStore({ clock: () => clock.now, idleMs: 60_000 })
  const create = (id: ReturnType<typeof freshId>) =>
    store.create(id, Token.fresh(id).hash, newIdempotencyKey(), noEntries)()
  const [destroyed, expired] = [freshId(), freshId()]
  t.match([await create(destroyed), await create(expired)], [{ _tag: 'Right' }, { _tag: 'Right' }])
  await store.destroy(destroyed)()
  clock.now += 60_000
  t.match(await store.deleteExpired(10)(), { right: { sessions: 1 } })
  clock.now += 3_600_000 - 60_001
  for (const id of [destroyed, expired])
    t.match(await create(id), { _tag: 'Left', left: { _tag: 'SaveConflict', what: 'create' } })
  clock.now += 60_001
  t.match([await create(destroyed), await create(expired)], [{ _tag: 'Right' }, { _tag: 'Right' }])
})
