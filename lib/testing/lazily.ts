// Sessions of which only some keys are read, for the laws of them.

import assert from 'node:assert/strict'
import * as O from 'fp-ts/lib/Option.js'
import { KeyNotLoaded } from '../base/errors.js'
import { loadSession, sessionToken } from '../current/verbs.js'
import type { Session } from '../port/session-store.js'
import { sessionSet, sessionUpdate } from '../session/values.js'
import { right } from './subject.js'

export const add = (key: string, by = 1) => sessionUpdate(key, (value) => Number(value) + by, 0)

/** The session as a request finds it that asked for these keys. */
export const lazily = async (session: Session, ...keys: readonly string[]): Promise<Session> =>
  O.toNullable(await right(loadSession(session.handle, sessionToken(session), { keys }))) ??
  assert.fail('the session is not there')

export const notLoaded = (key: string) => (error: unknown) =>
  error instanceof KeyNotLoaded && error.key === key

export const abc = [sessionSet('a', 1), sessionSet('b', 2), sessionSet('c', 3)] as const
