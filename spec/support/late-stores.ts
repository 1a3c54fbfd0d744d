// Opens stores with the layer `writeBehind` for specs, and separates the laws that hold with exceptions.

import { randomBytes } from 'node:crypto'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Cache } from '../../lib/cache/contract.js'
import { type WriteBehindOptions, type WriteBehindStore, writeBehind } from '../../lib/cache/write-behind.js'
import type { Database } from '../../lib/db/database.js'
import { cached } from '../../lib/store/cached.js'
import type { SessionStore } from '../../lib/store/contract.js'
import type { LawCheck, OpenSubject } from '../../lib/testing/index.js'
import { openIn, right } from './stores.js'

export const secrets = [randomBytes(32)]

/** Opens stores whose late saves are stored before time passes. `layered` adds further layers. */
export const lateStores =
  (database: Database, cache: Cache, options: Partial<WriteBehindOptions> = {}) =>
  (layered: (store: WriteBehindStore) => SessionStore = (store) => store): OpenSubject =>
  async (lifetime) => {
    let store: WriteBehindStore | undefined
    const subject = await openIn(database, undefined, {}, (plain) => {
      store = writeBehind(cached(plain), cache, {
        secrets,
        flushMs: 10,
        maxBehindMs: 80,
        allowEviction: true,
        ...options,
      })
      return layered(store)
    })(lifetime)
    return {
      ...subject,
      elapse: async (milliseconds) => {
        await right(store?.flush ?? TE.right(undefined))
        await subject.elapse(milliseconds)
      },
    }
  }

/** The laws that do not hold for a late save. write-behind.spec.ts has what holds instead. */
const EXCEPTIONS = [
  'an expired session is never written again',
  'a session with a lifetime of its own expires by that, however it is used',
]

export const isException = ({ name }: LawCheck): boolean => EXCEPTIONS.some((law) => name.endsWith(law))

export const lawsWithLateSaves = (laws: readonly LawCheck[]): readonly LawCheck[] =>
  laws.filter((law) => !isException(law))
