// Defines the contract of a store's flows. A flow is an instance of a flow definition in one session. Each answer of the
// visitor is stored as a row, which is never changed. A row has the id of its parent, so the answers form a tree.
//
// - Every operation requires a live session. For an ended session, `read` returns `None` and a write is refused.
// - A write that is refused fails with a `SaveConflict` of the record 'flow', and stores nothing.
// - A write may be repeated after a lost answer. The row's `made` identifies the write.
import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { SaveConflict, SessionGone, StoreError } from '../core/errors.js'
import type { Json } from '../core/json.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import type { Change, SavedSnapshot } from './change.js'

/** A record of a journal: the kind and the name of a step, and the step's value as JSON. */
export type JournalRecord = readonly [kind: string, name: string, value: Json]

/** The maximum number of answers in one flow. */
export const MAX_ANSWERS = 500

/** The maximum number of characters in all records of one flow. */
export const MAX_JOURNAL_CHARS = 1_048_576

/** The maximum number of characters in the JSON of one answer or of one effect's value. */
export const MAX_VALUE_CHARS = 65_536

/** The maximum number of flows of a session that can be answered. */
export const MAX_FLOWS = 20

export interface FlowKey {
  readonly session: SessionId
  /** The id of the flow, a UUID. */
  readonly flow: string
}

/** The continuation that has called a flow: the name of its flow, the id of the flow, and the id of the row. */
export interface Caller {
  readonly name: string
  readonly flow: string
  readonly row: string
}

export interface NewFlow {
  readonly name: string
  /** The version of the definition that begins the flow. */
  readonly version: number
  readonly input: Json
  /** 32 hexadecimal digits. The ids of rows and the keys of effects are derived from them. */
  readonly seed: string
  readonly principal: string | undefined
  /** The continuation that gets the result of this flow. */
  readonly caller: Caller | undefined
  /** The flow expires after this many milliseconds without an answer. Default: never. */
  readonly idleMs: number | undefined
  /** The maximum age of the flow in milliseconds. Default: the flow ends with its session. */
  readonly maxAgeMs: number | undefined
}

export interface NewRow {
  /** The id of the row, a UUID. */
  readonly id: string
  /** The id of the row whose page was answered, or `undefined` for the first page. */
  readonly parent: string | undefined
  /**
   * The idempotency key of the parent, or the seed of the flow for the first page, as the caller knows it. The write is
   * refused if the store has another parent or another flow.
   */
  readonly parentMade: string | undefined
  /** The name of the step that the flow has reached. */
  readonly step: string
  /** The records since the parent. */
  readonly records: readonly JournalRecord[]
  /** The number of characters that the row adds to the size of the flow. */
  readonly chars: number
  readonly made: IdempotencyKey
  /** Whether earlier rows can no longer be answered. */
  readonly cuts: boolean
}

/** The flow as the caller has read it. A write is refused if the flow has been cut or belongs to another principal. */
export interface Seen {
  readonly generation: number
  readonly principal: string | undefined
}

/** How a flow has ended: with a result, or because the session has too many flows. */
export type FlowEnd = { readonly to: string } | 'evicted'

export interface FlowHead extends Omit<NewFlow, 'idleMs' | 'maxAgeMs'> {
  /** A cut raises the generation. A row can be answered if its generation is the flow's generation. */
  readonly generation: number
  /** The id of the last stored row. */
  readonly latest: string | undefined
  readonly answers: number
  /** The number of characters in all records and in the values of effects that belong to no row. */
  readonly size: number
  readonly end: FlowEnd | undefined
  readonly expired: boolean
}

export interface FlowRow {
  readonly id: string
  readonly parent: string | undefined
  readonly generation: number
  readonly records: readonly JournalRecord[]
  /** The idempotency key of the write that made the row. */
  readonly made: string
}

/** Identifies the content of a row. After a restore of the database, another row may have the same id. */
export const versionOf = ({ id, made }: Pick<FlowRow, 'id' | 'made'>): string => `${id} ${made}`

export interface FlowPosition {
  readonly head: FlowHead
  /** The generation of the requested row, or `undefined` if the row does not exist. It is 0 for the first page. */
  readonly generation: number | undefined
  /** The requested row and its ancestors, the oldest first. Known rows and their ancestors are left out. */
  readonly rows: readonly FlowRow[]
  /** The answer that was given to the requested row from outside of the session. */
  readonly given: Json | undefined
}

/** Identifies the value of an effect. The scope is the id of a row, or the flow's id for all branches of the flow. */
export interface EffectKey extends FlowKey {
  readonly scope: string
  readonly name: string
  /** The number of earlier effects with this name in the journal. */
  readonly occurrence: number
}

export interface Claim extends EffectKey {
  /** A UUID that identifies the claim. */
  readonly claim: string
  readonly claimMs: number
}

/**
 * `claimed`: the caller runs the effect. `busy`: another request runs the effect. `refused`: the flow or its session has
 * ended, or the flow has been cut. `full`: the flow has reached its maximum size. Otherwise the effect has run before,
 * and `value` is its value. The values of effects are kept until the flow is deleted, even after its end.
 */
export type Claimed = 'claimed' | 'busy' | 'refused' | 'full' | { readonly value: Json }

export interface ListedFlow {
  readonly id: string
  readonly name: string
  /** The id of the last stored row, and the step that this row has reached. */
  readonly latest: string | undefined
  readonly step: string | undefined
  readonly answers: number
  /** The time of the last answer, in milliseconds since 1970. */
  readonly usedAt: number
}

/** The end of a flow. `to` is the path to which all its pages lead afterwards. */
export interface NewEnd {
  readonly key: FlowKey
  readonly seen: Seen
  readonly to: string
  readonly made: IdempotencyKey
}

/** A row to store in a flow. */
export interface RowWrite {
  readonly key: FlowKey
  readonly seen: Seen
  readonly row: NewRow
}

/** A write to the flows of a session. All its parts are stored in one transaction, or none. */
export interface FlowWrite {
  readonly session: SessionId
  readonly row: RowWrite | undefined
  /** The flows that end. A called flow ends together with the row of its caller. */
  readonly ends: readonly NewEnd[]
  /** The change of the session. */
  readonly change: Change | undefined
}

export interface FlowStore {
  /**
   * Reads a flow and the records that lead to a row. `row` is `undefined` for the first page. `known` are the rows that
   * the caller has, as `versionOf` writes them.
   */
  readonly read: (
    key: FlowKey,
    row: string | undefined,
    known: readonly string[],
  ) => TaskEither<StoreError, Option<FlowPosition>>

  /**
   * Begins a flow, with its first row if there is one, and returns the number of flows that were evicted. A session has
   * at most `MAX_FLOWS` flows that can be answered. The least recently used flow is evicted first.
   */
  readonly begin: (
    key: FlowKey,
    flow: NewFlow,
    row: NewRow | undefined,
  ) => TaskEither<StoreError | SaveConflict, number>

  /** Stores a row, ends flows, and saves a change of the session. The result is the saved session. */
  readonly write: (
    write: FlowWrite,
  ) => TaskEither<StoreError | SessionGone | SaveConflict, SavedSnapshot | undefined>

  /** Claims an effect, so that only one request runs it. A claim ends after `claimMs`. */
  readonly claim: (claim: Claim, generation: number) => TaskEither<StoreError, Claimed>

  /**
   * Stores the value of a claimed effect, and adds `chars` to the size of the flow. Returns false if the claim has ended
   * and another request has claimed the effect, or if the flow was deleted.
   */
  readonly record: (claim: Claim, value: Json, chars: number) => TaskEither<StoreError, boolean>

  /** Ends a claim without a value, so that another request can claim the effect at once. */
  readonly release: (claim: Claim) => TaskEither<StoreError, void>

  /** Returns the flows of a session that can be answered, the most recently used first. */
  readonly list: (session: SessionId) => TaskEither<StoreError, readonly ListedFlow[]>

  /** Deletes a flow with its rows. */
  readonly drop: (key: FlowKey) => TaskEither<StoreError, void>
}
