// The adapter for Express 4 and 5: a middleware.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Session } from '../port/session-store.js'
import { nothingAdded } from './answer-headers.js'
import { type DoorOptions, forwardedOf, openDoor } from './door.js'
import { followErrors, subscribeOnce } from './express-errors.js'
import { holdResponse } from './held-response.js'
import { bindEvents } from './request-events.js'
import { conduct, type Visit } from './request-life.js'

export type { DoorOptions } from './door.js'

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- the place that Express's types have for it
  namespace Express {
    interface Request {
      /** The current session as it is now. @throws `SessionClosed` once the response has begun. */
      currentSession: () => Session
    }
  }
}

/** What the middleware knows of Express's request; `trust proxy` decides on `secure`, `ip` and the host. */
export interface ExpressRequest extends IncomingMessage {
  readonly secure?: boolean
  readonly ip?: string | undefined
  readonly app?: { readonly get: (setting: 'trust proxy fn') => unknown }
  currentSession?: () => Session
}

/**
 * A middleware for Express that gives what comes after it a current session. It is saved before the first byte
 * of the response goes out. A request that was answered with an error (a status from 500 on; or from 400 on, when
 * an error was thrown, rejected or passed to `next`) leaves nothing behind; a save that fails is passed to `next`.
 *
 * @example
 * ```ts
 * import express from 'express'
 * import { sessionMiddleware } from 'keyrow/express'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionRef, sessionUpdate, updateCurrentSession } from 'keyrow/promise'
 *
 * const app = express()
 * app.use(sessionMiddleware({ store: memoryStore() }))
 * app.get('/', async (req, res) => {
 *   await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
 *   res.send(`visit ${sessionRef('visits')(req.currentSession())}`)
 * })
 * ```
 */
export const sessionMiddleware = (options: DoorOptions) => {
  const begin = openDoor(options)
  subscribeOnce()
  return (req: ExpressRequest, res: ServerResponse, next: (error?: unknown) => void): void => {
    let hasErred = false
    const response = holdResponse(
      res,
      (failure) => () => next(failure),
      (status = 500) => status >= 500 || (hasErred && status >= 400),
    )
    followErrors(req, () => {
      hasErred = true
      // A handler that answers and then fails has failed: Express's error handling can still answer instead.
      response.retract()
    })
    conduct(
      begin(visitOf(req)),
      (life) => {
        bindEvents(life, req, res)
        req.currentSession = life.session
        next()
        // The handler is done when it has answered.
        return new Promise(() => undefined)
      },
      response,
    ).catch((failure: unknown) => response.fail(failure, nothingAdded))
  }
}

const visitOf = (req: ExpressRequest): Visit => ({
  cookieHeader: req.headers.cookie,
  secure: req.secure ?? false,
  address: req.ip,
  host: forwardedOf(req, isTrusted(req)).host,
  request: req,
})

/** Whether the proxy that sent the request is trusted. (`req.host` is without its port in Express 4.) */
const isTrusted = ({ app, socket }: ExpressRequest): boolean => {
  const trusts = app?.get('trust proxy fn') as Trust | undefined
  return trusts?.(socket.remoteAddress, 0) ?? false
}

type Trust = (address: string | undefined, hop: number) => boolean
