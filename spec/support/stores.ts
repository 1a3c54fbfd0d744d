// The stores that every spec runs on, each with a way to let time pass.

import type { Lifetime } from '../../lib/port/lifetime.js'
import { memoryStore } from '../../lib/driver/memory.js'
import type { OpenSubject } from '../../lib/testing/index.js'

export const openMemory: OpenSubject = (lifetime: Partial<Lifetime>) => {
  let now = Date.now()
  return Promise.resolve({
    store: memoryStore({ ...lifetime, clock: () => now }),
    elapse: (milliseconds: number) => {
      now += milliseconds
      return Promise.resolve()
    },
    close: () => Promise.resolve(),
  })
}
