// The rows of the memory store: one immutable value for each session, put in the place of the one before.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import type { Clock } from '../base/clock.js'
import { SaveConflict, SessionGone } from '../base/errors.js'
import type { Absence } from '../port/session-store.js'
import type { Entries } from '../session/edits.js'
import { PRINCIPAL } from '../session/principal.js'
import type { SaveId, SecretHash, SessionId } from '../session/token.js'

export interface Rows {
  readonly secret: SecretHash
  readonly previous?: { readonly secret: SecretHash; readonly until: number }
  readonly createdAt: number
  readonly expiration: number
  readonly absoluteExpiration: number
  readonly revision: number
  readonly entries: Entries
  /** The last saves, the latest first. */
  readonly recent: readonly SaveId[]
}

export type RowChange<L> = (rows: Rows) => E.Either<L, Rows>

/** Whether this save is among the last ones. */
export const isDone = (rows: Rows, save: SaveId | undefined): boolean =>
  save !== undefined && rows.recent.includes(save)

/** Expired rows are as good as gone, and swept when the table has doubled. */
export class MemoryTable {
  readonly #rows = new Map<SessionId, Rows>()
  readonly #now: Clock
  #sweepAt = 1024

  constructor(now: Clock) {
    this.#now = now
  }

  find(id: SessionId): O.Option<Rows> {
    return pipe(
      O.fromNullable(this.#rows.get(id)),
      O.filter((rows) => rows.expiration > this.#now()),
    )
  }

  open(id: SessionId, fits: (rows: Rows) => boolean): E.Either<Absence, Rows> {
    const rows = this.#rows.get(id)
    if (rows === undefined || !fits(rows)) return E.left('unknown')
    return rows.expiration > this.#now() ? E.right(rows) : E.left('expired')
  }

  /** The live ones of a principal, the oldest first. */
  whose(principal: string): readonly (readonly [SessionId, Rows])[] {
    return [...this.#rows].filter(
      ([, { entries, expiration }]) => entries.get(PRINCIPAL) === principal && expiration > this.#now(),
    )
  }

  insert(id: SessionId, rows: Rows): E.Either<SaveConflict, Rows> {
    const present = this.#rows.get(id)
    if (present !== undefined)
      return isDone(present, rows.recent[0]) ? E.right(present) : E.left(new SaveConflict(id, 'create'))
    if (this.#rows.size >= this.#sweepAt) {
      this.sweep(Number.POSITIVE_INFINITY)
      this.#sweepAt = Math.max(1024, this.#rows.size * 2)
    }
    return E.right(this.#put(id, rows))
  }

  update<L>(id: SessionId, change: RowChange<L>): E.Either<L | SessionGone, Rows> {
    return pipe(
      this.find(id),
      E.fromOption(() => new SessionGone(id)),
      E.chainW(change),
      E.map((rows) => this.#put(id, rows)),
    )
  }

  /** Whether it was there. */
  remove(id: SessionId): boolean {
    return this.#rows.delete(id)
  }

  #put(id: SessionId, rows: Rows): Rows {
    this.#rows.set(id, rows)
    return rows
  }

  /** Removes at most so many expired ones; gives how many. */
  sweep(limit: number): number {
    let swept = 0
    for (const [id, rows] of this.#rows) {
      if (swept >= limit) break
      if (rows.expiration <= this.#now() && this.#rows.delete(id)) swept += 1
    }
    return swept
  }
}
