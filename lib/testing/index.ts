// Exports the laws as checks of any `SessionStore`, for any test runner.

import { adapterLaws } from './adapter-laws.js'
import { currentLaws } from './current-laws.js'
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
export const sessionStoreLaws = (open: OpenSubject): readonly LawCheck[] =>
  laws.map(({ law, name, lifetime, check }) => ({
    name: `law ${String(law)}, ${name}`,
    run: async () => {
      const subject = await open(lifetime ?? {})
      try {
        await check(subject)
      } finally {
        await subject.close()
      }
    },
  }))
