// Loads that are done together.

import type { ManyOperations, SessionStore } from '../port/session-store.js'
import { asking } from './asking.js'
import type { BatchLimits } from './gathering.js'

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
  limits: Required<BatchLimits>,
): SessionStore['load'] => {
  const load = asking({
    what: 'load',
    limits,
    refusal: store.refusal,
    all: (requests: Parameters<ManyOperations['load']>[0]) => many.load(requests)(),
    one: (request) => store.load(request.id, request.secret, request)(),
  })
  return (id, secret, reading = {}) =>
    () =>
      load({ id, secret, ...reading })
}
