// A cache in the memory of a spec. `tamper` changes what the cache returns, or makes it fail.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { type Cache, CacheError, type CacheItem } from '../../lib/cache/contract.js'

export type Tamper = (key: string, value: Uint8Array | undefined) => Uint8Array | undefined | 'fail' | 'wait'

export interface TestCache extends Cache {
  readonly values: Map<string, Uint8Array>
  /** The names of the commands and their keys, such as `get 1,2`. */
  readonly commands: string[]
  tamper: Tamper
}

export const testCache = (maxValueBytes = 1_000_000): TestCache => {
  const values = new Map<string, Uint8Array>()
  const commands: string[] = []
  const versions = new Map<string, string>()
  let writes = 0
  const write = (command: string, { key, value }: CacheItem): void => {
    commands.push(`${command} ${key}`)
    values.set(key, value)
    writes += 1
    versions.set(key, String(writes))
  }
  const cache: TestCache = {
    ...{ values, commands, maxValueBytes },
    tamper: (_, value) => value,
    get: (keys) => async () => {
      commands.push(`get ${keys.join()}`)
      const found = keys.map((key) => cache.tamper(key, values.get(key)))
      if (found.includes('wait')) await new Promise((resolve) => setTimeout(resolve, 5))
      return found.includes('fail')
        ? E.left(new CacheError('get: it fails', 'unavailable'))
        : E.right(
            found.map((value, index) => {
              const version = versions.get(keys[index] ?? '') ?? ''
              return value instanceof Uint8Array ? O.some({ value, version }) : O.none
            }),
          )
    },
    set: (items) => () => {
      for (const item of items) write('set', item)
      return Promise.resolve(E.right(undefined))
    },
    swap: (items) => () =>
      Promise.resolve(
        E.right(
          items.map((item) => {
            const now = values.has(item.key) ? versions.get(item.key) : undefined
            const isExpected = now === O.toUndefined(item.version)
            if (isExpected) write('swap', item)
            return { isStored: isExpected, ...(isExpected && { version: versions.get(item.key) ?? '' }) }
          }),
        ),
      ),
    drop: (keys) => () => {
      commands.push(`drop ${keys.join()}`)
      for (const key of keys) values.delete(key)
      return Promise.resolve(E.right(undefined))
    },
    close: () => Promise.resolve(E.right(undefined)),
  }
  return cache
}
