// Exports the laws as checks of any `SessionStore`, for any test runner.

import { given } from '../core/errors.js'
import type { Json } from '../core/json.js'
import type { Flow } from '../flow/index.js'
import { describe, entryOf } from '../flow/journal.js'
import { replayedAt } from '../flow/position.js'
import type { JournalRecord } from '../store/flow-contract.js'
import { adapterLaws } from './adapter-laws.js'
import { currentLaws } from './current-laws.js'
import { callLawsOfFlows } from './flow-call-laws.js'
import { journalLawsOfFlows } from './flow-laws.js'
import { lifetimeLawsOfFlows } from './flow-lifetime-laws.js'
import { partialLoadingLaws } from './partial-loading-laws.js'
import { lifetimeLaws, storeLaws } from './store-laws.js'
import type { Law, OpenSubject } from './subject.js'
import { tokenLaws } from './token-laws.js'
import { transactionLaws } from './transaction-laws.js'
import { valueLaws } from './value-laws.js'

export type { Law, OpenSubject, Subject } from './subject.js'

const laws: readonly Law[] = [
  ...valueLaws,
  ...storeLaws,
  ...lifetimeLaws,
  ...tokenLaws,
  ...currentLaws,
  ...transactionLaws,
  ...partialLoadingLaws,
  ...adapterLaws,
].sort((a, b) => a.law - b.law)

/** One check of a law. `name` begins with `law` and a number. The promise of `run` rejects if the law is broken. */
export interface LawCheck {
  readonly name: string
  readonly run: () => Promise<void>
}

/**
 * Returns the checks of all laws, in the order of the laws. Each check runs on a store that `open` opens.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionStoreLaws } from 'keyrow/testing'
 *
 * const checks = sessionStoreLaws((lifetime) => {
 *   let now = Date.now()
 *   return Promise.resolve({
 *     store: memoryStore({ ...lifetime, clock: () => now }),
 *     elapse: (milliseconds) => Promise.resolve(void (now += milliseconds)),
 *     close: () => Promise.resolve(),
 *   })
 * })
 * for (const { name, run } of checks) await run().catch((error: unknown) => console.error(name, error))
 * ```
 */
export const sessionStoreLaws = (open: OpenSubject): readonly LawCheck[] => checksOf(laws, 'law', open)

/**
 * Returns the checks of all laws of flows, in the order of the laws. Each check runs on a store that `open` opens, as in
 * `sessionStoreLaws`. The laws are in docs/flows.md.
 *
 * @example
 * ```ts
 * import { memoryStore } from 'keyrow/memory'
 * import { flowLaws } from 'keyrow/testing'
 *
 * const checks = flowLaws((lifetime) => {
 *   let now = Date.now()
 *   return Promise.resolve({
 *     store: memoryStore({ ...lifetime, clock: () => now }),
 *     elapse: (milliseconds) => Promise.resolve(void (now += milliseconds)),
 *     close: () => Promise.resolve(),
 *   })
 * })
 * for (const { name, run } of checks) await run().catch((error: unknown) => console.error(name, error))
 * ```
 */
export const flowLaws = (open: OpenSubject): readonly LawCheck[] =>
  checksOf([...journalLawsOfFlows, ...callLawsOfFlows, ...lifetimeLawsOfFlows], 'law of flows', open)

/** A journal of a flow: the input, the version that began the flow, and the records. */
export interface StoredJournal {
  readonly version: number
  readonly input: Json
  readonly journal: readonly JournalRecord[]
}

/**
 * Replays a stored journal on the present definition of a flow, and returns a description of the step that follows. Keep
 * journals of older versions in files, and replay them in your tests. The rows of the table `continuation` have the
 * records.
 *
 * @throws `FlowChanged` if the journal does not fit, or if no page follows the journal
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { flow, suspend } from 'keyrow/flow'
 * import { replayJournal } from 'keyrow/testing'
 *
 * const survey = flow({ name: 'survey', input: t.type({}) }, function* () {
 *   yield* suspend('first', t.type({ word: t.string }), () => '…')
 *   yield* suspend('second', t.type({}), () => '…')
 * })
 * const journal = [['suspend', 'first', { word: 'tea' }]] as const
 * console.log(replayJournal(survey, { version: 1, input: {}, journal })) // { waitsFor: "suspend 'second'" }
 * ```
 */
export const replayJournal = <I, A, L>(
  flow: Flow<I, A, L>,
  { version, input, journal }: StoredJournal,
): { readonly waitsFor: string } => {
  const { step } = given(replayedAt(flow, { version, input }, journal.map(entryOf)))
  return { waitsFor: describe(step) }
}

const checksOf = (checked: readonly Law[], prefix: string, open: OpenSubject): readonly LawCheck[] =>
  checked.map(({ law, name, lifetime, check }) => ({
    name: `${prefix} ${String(law)}, ${name}`,
    run: async () => {
      const subject = await open(lifetime ?? {})
      try {
        await check(subject)
      } finally {
        await subject.close()
      }
    },
  }))
