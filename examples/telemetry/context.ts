// The context manager that carries the active span through `await`. A program uses the one of @opentelemetry/sdk-node,
// or of @opentelemetry/context-async-hooks, which does little more than this.

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
