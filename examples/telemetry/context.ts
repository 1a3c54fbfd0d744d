// A context manager that keeps the active span across `await`. A real program uses the context manager of
// @opentelemetry/sdk-node or @opentelemetry/context-async-hooks.

import { AsyncLocalStorage } from 'node:async_hooks'
import { type Context, type ContextManager, ROOT_CONTEXT } from '@opentelemetry/api'

export const asyncContext = (): ContextManager => {
  const storage = new AsyncLocalStorage<Context>()
  const manager: ContextManager = {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (context, fn, thisArg, ...args) => storage.run(context, () => fn.apply(thisArg, args)),
    bind: (context, target) =>
      typeof target === 'function'
        ? storage.run(context, () => AsyncLocalStorage.bind(target as never))
        : target,
    enable: () => manager,
    disable: () => {
      storage.disable()
      return manager
    },
  }
  return manager
}
