// The port to a table of sessions that another store has written, from which they are taken over.

import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DriverError } from '../base/errors.js'
import type { Json } from '../base/json.js'

/** A session as the other store has it: its credential, and its values. */
export interface OldSession {
  readonly sid: string
  readonly values: Readonly<Record<string, Json>>
}

export interface OldSessions {
  /** One that is alive by the other store's rules. */
  readonly find: (sid: string) => TaskEither<DriverError, Option<OldSession>>
  /** The next ones that are alive, by sid. */
  readonly after: (sid: string, limit: number) => TaskEither<DriverError, readonly OldSession[]>
  /** Has it expire there in so many milliseconds at the latest, unless the other store moves that again. */
  readonly shorten: (sid: string, milliseconds: number) => TaskEither<DriverError, void>
  readonly remove: (sid: string) => TaskEither<DriverError, void>
}
