// Loads that are done together.

import * as E from 'fp-ts/lib/Either.js'
import type { Absence, LoadRequest, ManyOperations, SessionStore, StoreError } from '../port/session-store.js'
import type { Snapshot } from '../session/session.js'
import { type BatchLimits, concernsAll, gathering, type InLine, inTime, overloaded } from './gathering.js'

type Outcome = E.Either<StoreError, E.Either<Absence, Snapshot>>

interface Waiting extends InLine {
  readonly resolve: (outcome: Outcome | PromiseLike<Outcome>) => void
  readonly request: LoadRequest
}

/** Those of some keys go together, and those of all: they are two statements. */
export const batchedLoads = (
  ...params: readonly [SessionStore, ManyOperations, Required<BatchLimits>]
): SessionStore['load'] => {
  const [loads, loadsOfKeys] = [lineOfLoads(...params), lineOfLoads(...params)]
  return (id, secret, reading) => (reading?.keys === undefined ? loads : loadsOfKeys)(id, secret, reading)
}

const lineOfLoads = (
  store: SessionStore,
  many: ManyOperations,
  { batch, atOnce, queue, waitMs }: Required<BatchLimits>,
): SessionStore['load'] => {
  const line: Waiting[] = []
  const next = (): readonly Waiting[] | undefined => {
    while (line.length > 0) {
      const waiting = inTime(line.splice(0, batch), 'load', waitMs)
      if (waiting.length > 0) return waiting
    }
    return undefined
  }
  const joined = gathering(
    { next, send: (waiting) => loadAll(store, many, waiting).catch(rejecting(waiting)) },
    atOnce,
  )
  return (id, secret, reading = {}) =>
    () => {
      const refused = store.refusal?.() ?? (line.length >= queue ? overloaded('load', queue) : undefined)
      if (refused !== undefined) return Promise.resolve(E.left(refused))
      return new Promise((resolve, reject) => {
        line.push({ request: { id, secret, ...reading }, since: performance.now(), resolve, reject })
        joined()
      })
    }
}

// A statement's observer may throw: that is everybody's, and the place of the batch is free again.
const rejecting =
  (waiting: readonly Waiting[]) =>
  (thrown: unknown): void => {
    for (const { reject } of waiting) reject(thrown)
  }

const loadAll = async (
  store: SessionStore,
  many: ManyOperations,
  waiting: readonly Waiting[],
): Promise<void> => {
  if (waiting.length > 1) {
    const results = await many.load(waiting.map(({ request }) => request))()
    if (E.isRight(results)) {
      for (const [index, found] of results.right.entries()) waiting[index]?.resolve(E.right(found))
      return
    }
    if (concernsAll(results.left)) {
      for (const { resolve } of waiting) resolve(results)
      return
    }
  }
  await Promise.allSettled(waiting.map((one) => loadOne(store, one)))
}

const loadOne = (store: SessionStore, { request, resolve }: Waiting): Promise<unknown> => {
  const loading = store.load(request.id, request.secret, request)()
  resolve(loading)
  return loading
}
