// Tests the batch queue alone, with random requests, limits and answers. No request is lost or done twice. Requests of
// one key run one after the other, in order. The queue is bounded.

import fc from 'fast-check'
import t from 'tap'
import { DriverError, SessionGone } from '../lib/core/errors.js'
import { E } from '../lib/core/prelude.cjs'
import { batchQueue, type Merged, type Pending, UNKNOWN, unmerged } from '../lib/db/batch-queue.js'
import { limitsOf, Scheduler } from '../lib/db/batch-scheduler.js'

interface Item {
  readonly n: number
  readonly key: string | undefined
}

interface Request {
  readonly items: readonly Item[]
  readonly base: number | undefined
}

/** What a batch, or an item that is sent alone, comes to. */
type Fate = 'done' | 'partly' | 'in doubt' | 'fails' | 'one is at fault' | 'one is lost' | 'throws'

interface Plan {
  /** The number of requests that arrive alone, one after the other, before the items. */
  readonly before: number
  readonly items: readonly (readonly [key: string | undefined, turns: number])[]
  readonly batches: readonly (readonly [Fate, turns: number])[]
  readonly alone: readonly (readonly ['done' | 'fails' | 'throws', turns: number])[]
  readonly rejects: number
  readonly keyed: boolean
  readonly again: boolean
  readonly limits: {
    readonly maxBatchSize: number
    readonly concurrency: number
    readonly maxQueueSize: number
  }
  readonly maxMerged: number
}

const turns = fc.nat(3)
const plans: fc.Arbitrary<Plan> = fc.record({
  before: fc.nat(8),
  items: fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c', 'd'), turns), { maxLength: 40 }),
  batches: fc.array(
    fc.tuple(
      fc.constantFrom<Fate>(
        'done',
        'done',
        'partly',
        'in doubt',
        'fails',
        'one is at fault',
        'one is lost',
        'throws',
      ),
      turns,
    ),
    { minLength: 1, maxLength: 10 },
  ),
  alone: fc.array(
    fc.tuple(fc.constantFrom<'done' | 'fails' | 'throws'>('done', 'done', 'fails', 'throws'), turns),
    {
      minLength: 1,
      maxLength: 10,
    },
  ),
  rejects: fc.nat(20),
  keyed: fc.boolean(),
  again: fc.boolean(),
  limits: fc.record({
    maxBatchSize: fc.integer({ min: 1, max: 5 }),
    concurrency: fc.integer({ min: 1, max: 3 }),
    maxQueueSize: fc.integer({ min: 1, max: 60 }),
  }),
  maxMerged: fc.integer({ min: 1, max: 4 }),
})

const pause = async (turns: number): Promise<void> => {
  for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

/** Runs a plan and returns the violations. */
const faultsOf = async ({
  before,
  items,
  batches,
  alone,
  rejects,
  keyed,
  again,
  limits,
  maxMerged,
}: Plan): Promise<readonly string[]> => {
  const faults: string[] = []
  const done: Item[] = []
  const inDoubt = new Set<Item>()
  const underWay = new Set<string>()
  let [running, batch, single] = [0, 0, 0]
  const enter = (keys: readonly (string | undefined)[]): void => {
    for (const key of keys) {
      if (key === undefined) continue
      if (underWay.has(key)) faults.push(`two requests of ${key} are under way`)
      underWay.add(key)
    }
  }
  const leave = (keys: readonly (string | undefined)[]): void => {
    for (const key of keys) if (key !== undefined) underWay.delete(key)
  }
  const all = async (
    requests: readonly Request[],
  ): Promise<E.Either<Error, readonly (number | undefined | typeof UNKNOWN)[]>> => {
    const [fate, turns] = batches[batch % batches.length] as Plan['batches'][number]
    batch += 1
    running += 1
    const keys = requests.map(({ items }) => items[0]?.key)
    if (running > limits.concurrency) faults.push('too many batches at once')
    if (requests.length > limits.maxBatchSize) faults.push('too large a batch')
    enter(keys)
    await pause(turns)
    leave(keys)
    running -= 1
    if (fate === 'throws') throw new Error('thrown')
    if (fate === 'fails') return E.left(new DriverError('lost', { retryable: true }))
    if (fate === 'one is at fault')
      return E.left(new DriverError('a bad value', { sqlState: '22P02', retryable: false }))
    if (fate === 'one is lost') {
      for (const item of requests.flatMap(({ items }) => items)) inDoubt.add(item)
      return E.left(new DriverError('a lost answer', { retryable: false, effect: 'unknown' }))
    }
    return E.right(
      requests.map(({ items }, index) => {
        if (fate === 'partly' && index % 2 === 0) return undefined
        if (fate === 'in doubt' && index % 2 === 0) {
          for (const item of items) inDoubt.add(item)
          return UNKNOWN
        }
        done.push(...items)
        return items.at(-1)?.n
      }),
    )
  }
  const one = async (item: Item, mayBeDone: boolean): Promise<E.Either<Error, number>> => {
    if (mayBeDone !== inDoubt.has(item)) faults.push('it is wrong about what may be done')
    const [fate, turns] = alone[single % alone.length] as Plan['alone'][number]
    single += 1
    enter([item.key])
    await pause(turns)
    leave([item.key])
    if (fate === 'throws') throw new Error('thrown')
    if (fate === 'fails') return E.left(new SessionGone('x'))
    done.push(item)
    return E.right(item.n)
  }
  const merge = (
    pending: readonly Pending<Item, number, Error>[],
    base: number | undefined,
  ): Merged<Item, Request, number, Error> => {
    const taken = pending.filter(({ item, reject }) => {
      if (rejects === 0 || item.n % 7 !== rejects % 7) return true
      reject(new Error('rejected'))
      return false
    })
    const items = taken.map(({ item }) => item)
    if (new Set(pending.map(({ item }) => item.key)).size > 1) faults.push('items of two keys were merged')
    if (pending.length > (keyed ? maxMerged : 1)) faults.push('too many items were merged')
    const last = done.filter(({ key }) => key === pending[0]?.item.key).at(-1)
    if (base !== undefined && base !== last?.n) faults.push('the base is not the last result')
    return { request: { items, base }, pending: taken, split: () => items.map(({ n }) => n) }
  }
  const request = batchQueue<Item, Request, number, Error>({
    what: 'request',
    limits: limitsOf(limits),
    misuse: undefined,
    all,
    one,
    merge,
    maxMerged,
    isWorthAnotherBatch: () => again,
    ...(keyed ? { keyOf: ({ key }) => key ?? '' } : {}),
  })
  const answers = new Map<number, number>()
  const refused = new Set<number>()
  const answer = async (item: Item): Promise<void> => {
    const outcome = await request(item).catch((thrown: unknown) => E.left(thrown as Error))
    if (E.isLeft(outcome) && /waiting already/.test(outcome.left.message)) refused.add(item.n)
    answers.set(item.n, (answers.get(item.n) ?? 0) + 1)
    const times = done.filter(({ n }) => n === item.n).length
    if (E.isLeft(outcome) && /a bad value/.test(outcome.left.message)) faults.push('it was not retried alone')
    if (E.isRight(outcome) && outcome.right !== item.n)
      faults.push(`${String(item.n)} got ${String(outcome.right)}`)
    if (times !== (E.isRight(outcome) ? 1 : 0))
      faults.push(`${String(item.n)} was done ${String(times)} times`)
  }
  for (let n = -before; n < 0; n += 1) await answer({ n, key: keyed ? 'a' : undefined })
  const waiting: Promise<void>[] = []
  for (const [n, [key, turns]] of items.entries()) {
    await pause(turns)
    waiting.push(answer({ n, key: keyed ? key : undefined }))
  }
  await Promise.all(waiting)
  // The queue must be empty now, so it accepts as many requests as at the beginning.
  const more = Array.from({ length: limits.maxQueueSize + 1 }, (_, index) => index + items.length)
  await Promise.all(more.map((n) => answer({ n, key: keyed ? 'e' : undefined })))
  if (more.filter((n) => refused.has(n)).join() !== String(more.at(-1)))
    faults.push('the queue has lost places')
  if (new Set(done).size !== done.length) faults.push('an item was done twice')
  if (
    answers.size !== before + items.length + more.length ||
    [...answers.values()].some((times) => times !== 1)
  )
    faults.push('lost answers')
  // No request is answered before the end of the first turn of the event loop. So all of that turn count.
  const first = items.findIndex(([, turns]) => turns > 0)
  const burst = first < 0 ? items.length : first
  if ([...refused].filter((n) => n >= 0 && n < burst).length !== Math.max(0, burst - limits.maxQueueSize))
    faults.push(`of ${String(burst)} were refused: ${[...refused].join()}`)
  for (const key of keyed ? ['a', 'b', 'c', 'd', 'e'] : []) {
    const order = done.filter((item) => item.key === key).map(({ n }) => n)
    if (order.some((n, index) => n < (order[index - 1] ?? n))) faults.push(`out of order: ${order.join()}`)
  }
  return faults
}

t.test(
  'no request is lost or done twice; those of one key keep their order; the queue is bounded',
  async (t) => {
    let runs = 0
    await fc.assert(
      fc.asyncProperty(plans, async (plan) => {
        runs += 1
        const faults = await faultsOf(plan)
        if (faults.length > 0) throw new Error(faults.join('; '))
      }),
      { numRuns: 500 },
    )
    t.equal(runs, 500)
  },
)

t.test('beyond the limit a request fails at once, and has not been sent', async (t) => {
  const sent: number[] = []
  const request = batchQueue<number, number, number, Error>({
    what: 'request',
    limits: limitsOf({ maxQueueSize: 2 }),
    misuse: undefined,
    all: (requests) => Promise.resolve(E.right(requests)),
    one: (n) => Promise.resolve(E.right(n)),
    merge: (pending) => {
      const [{ item }] = pending as readonly [Pending<number, number, Error>]
      sent.push(item)
      return { request: item, pending, split: (result) => [result] }
    },
  })
  const [one, two, three] = await Promise.all([request(1), request(2), request(3)])
  t.strictSame([one, two], [E.right(1), E.right(2)])
  t.match(three, { left: { _tag: 'DriverError', kind: 'unavailable', retryable: true, effect: 'none' } })
  t.strictSame(sent, [1, 2])
  t.strictSame(await request(4), E.right(4))
})

t.test('items that have waited too long fail, and later ones of their key are sent', async (t) => {
  const sent: string[] = []
  const request = batchQueue<string, string, string, Error>({
    what: 'request',
    limits: limitsOf({ queueTimeoutMs: 20 }),
    misuse: undefined,
    all: () => Promise.reject(new Error('there is no batch')),
    one: async (item) => {
      sent.push(item)
      await new Promise((resolve) => setTimeout(resolve, item === 'slow' ? 60 : 0))
      return E.right(item)
    },
    keyOf: () => 'key',
    merge: (pending) => ({ request: pending[0]?.item ?? '', pending, split: (result) => [result] }),
  })
  const first = request('slow')
  const late = [request('late'), request('later')]
  t.strictSame(await first, E.right('slow'))
  for (const outcome of await Promise.all(late))
    t.match(outcome, { left: { _tag: 'DriverError', kind: 'timeout', effect: 'none' } })
  t.strictSame(await request('next'), E.right('next'))
  t.strictSame(sent, ['slow', 'next'])
})

t.test(
  'reads share the slots; a second batch of writes starts if many wait or the first is late',
  async (t) => {
    const sent: { readonly size: number; readonly beside: number }[] = []
    /** Sends `count` items at once to a queue whose batches take some milliseconds. */
    const send = async (count: number, milliseconds: number, writes: boolean): Promise<typeof sent> => {
      let running = 0
      const request = batchQueue<number, number, number, Error>({
        what: 'request',
        limits: limitsOf({}),
        misuse: undefined,
        all: async (requests) => {
          sent.push({ size: requests.length, beside: running })
          running += 1
          await new Promise((resolve) => setTimeout(resolve, milliseconds))
          running -= 1
          return E.right(requests)
        },
        one: (n) => Promise.resolve(E.right(n)),
        merge: unmerged,
        ...(writes ? { keyOf: String } : {}),
      })
      const answers = await Promise.all(Array.from({ length: count }, (_, n) => request(n)))
      t.strictSame(
        answers,
        answers.map((_, n) => E.right(n)),
      )
      return sent.splice(0)
    }
    t.strictSame(await send(63, 1, false), [{ size: 63, beside: 0 }])
    t.strictSame(await send(70, 1, false), [
      { size: 35, beside: 0 },
      { size: 35, beside: 1 },
    ])
    t.strictSame(await send(191, 1, true), [
      { size: 128, beside: 0 },
      { size: 63, beside: 0 },
    ])
    t.strictSame(await send(192, 1, true), [
      { size: 128, beside: 0 },
      { size: 64, beside: 1 },
    ])
    t.strictSame(await send(130, 100, true), [
      { size: 128, beside: 0 },
      { size: 2, beside: 1 },
    ])
  },
)

t.test('queues that share a scheduler send one statement at a time, and take turns', async (t) => {
  const scheduler = new Scheduler(1_000)
  const sent: string[] = []
  const endings: (() => void)[] = []
  const answerTo = async (items: readonly string[]): Promise<void> => {
    sent.push(items.join(' '))
    await new Promise<void>((resolve) => endings.push(resolve))
  }
  const queue = () =>
    batchQueue<string, string, string, Error>({
      what: 'request',
      limits: limitsOf({}),
      scheduler,
      misuse: undefined,
      all: (items) => answerTo(items).then(() => E.right(items)),
      one: (item) => answerTo([item]).then(() => E.right(item)),
      merge: unmerged,
    })
  const [a, b, c] = [queue(), queue(), queue()]
  const next = async (): Promise<void> => {
    endings.shift()?.()
    await pause(3)
  }
  const answers = [a('a1')]
  await pause(3)
  for (const [request, item] of [
    [c, 'c1'],
    [a, 'a2'],
    [b, 'b1'],
    [b, 'b2'],
    [a, 'a3'],
  ] as const) {
    answers.push(request(item))
    await pause(3)
  }
  t.strictSame(sent, ['a1'])
  for (const expected of ['b1 b2', 'c1', 'a2 a3']) {
    await next()
    t.equal(sent.at(-1), expected)
  }
  answers.push(a('a4'), c('c2'))
  await next()
  t.equal(sent.at(-1), 'c2', 'the queue whose latest statement is older comes first')
  // Many waiting requests do not wait for the statement that runs.
  answers.push(...Array.from({ length: 32 }, (_, n) => b(`b${String(n)}`)))
  await pause(3)
  t.equal(sent.length, 6)
  await next()
  await next()
  await next()
  t.strictSame(
    await Promise.all(answers.map((answer) => answer.then(E.isRight))),
    answers.map(() => true),
  )
})

t.test(
  'after requests that arrived alone, the next one is sent in its own turn of the event loop',
  async (t) => {
    const sent: string[] = []
    const request = batchQueue<string, string, string, Error>({
      what: 'request',
      limits: limitsOf({}),
      misuse: undefined,
      all: (items) => {
        sent.push(items.join(' '))
        return Promise.resolve(E.right(items))
      },
      one: async (item) => {
        sent.push(item)
        await pause(2)
        return E.right(item)
      },
      keyOf: (item) => item[0] ?? '',
      merge: unmerged,
    })
    const isSentAtOnce = async (item: string): Promise<boolean> => {
      const answer = request(item)
      const isSent = sent.at(-1) === item
      t.strictSame(await answer, E.right(item))
      await pause(3)
      return isSent
    }
    const first = []
    for (const item of ['a1', 'a2', 'b1', 'c1', 'a3', 'a4']) first.push(await isSentAtOnce(item))
    t.strictSame(first, [false, false, false, false, true, true])
    sent.length = 0
    await Promise.all(['a', 'b', 'c', 'd'].map(request))
    t.strictSame(sent, ['a', 'b c d'], 'the others wait together')
    sent.length = 0
    await Promise.all(['a', 'b', 'c', 'd'].map(request))
    t.strictSame(sent, ['a b c d'], 'requests that arrive together are a batch again')
    // An alone request blocks the next one of its key.
    for (const item of ['a5', 'b5', 'c5', 'd5']) await isSentAtOnce(item)
    sent.length = 0
    const same = [request('a6'), request('a7')]
    t.strictSame(sent, ['a6'])
    await Promise.all(same)
    t.strictSame(sent, ['a6', 'a7'])
  },
)

t.test('an item that a batch left undone is sent alone, or is tried in one more batch first', async (t) => {
  for (const [again, expected] of [
    [false, ['batch a b', 'alone a', 'alone b']],
    [true, ['batch a b', 'batch a b', 'alone a', 'alone b']],
  ] as const) {
    const sent: string[] = []
    const request = batchQueue<string, string, string, Error>({
      what: 'request',
      limits: limitsOf({}),
      misuse: undefined,
      all: (requests) => {
        sent.push(`batch ${requests.join(' ')}`)
        return Promise.resolve(E.right(requests.map(() => undefined)))
      },
      one: (item, mayBeDone) => {
        sent.push(`alone ${item}${mayBeDone ? '?' : ''}`)
        return Promise.resolve(E.right(item))
      },
      keyOf: (item) => item,
      merge: unmerged,
      isWorthAnotherBatch: () => again,
    })
    t.strictSame(await Promise.all([request('a'), request('b')]), [E.right('a'), E.right('b')])
    t.strictSame(sent, expected)
  }
})
