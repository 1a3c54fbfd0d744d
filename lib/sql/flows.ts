// Implements the store of flows over a `Database`. The parameters are text or numbers, like those of the session's
// statements.

import { SaveConflict, type StoreError } from '../core/errors.js'
import { deepFreeze, type Json } from '../core/json.js'
import { A, constVoid, E, O, pipe, TE, t } from '../core/prelude.cjs'
import type { Database, Param } from '../db/database.js'
import type { BatchOperations, SessionStore } from '../store/contract.js'
import type {
  Caller,
  Claim,
  Claimed,
  EffectKey,
  FlowEnd,
  FlowKey,
  FlowPosition,
  FlowRow,
  FlowStore,
  NewFlow,
  NewRow,
  RowWrite,
  Seen,
} from '../store/flow-contract.js'
import { Ordinal } from './batch.js'
import type { flowStatements } from './flow-statements.js'
import { optionalRowAs, rowAs, rowsAs, rowsTo, texts } from './rows.js'

const text = t.union([t.string, t.null])

const PositionRow = t.type({
  name: t.string,
  version: t.number,
  input: t.string,
  seed: t.string,
  principal: text,
  caller: text,
  generation: t.number,
  latest: text,
  answers: t.number,
  size: t.number,
  ended: text,
  expired: t.boolean,
  rowGeneration: t.union([t.number, t.null]),
  rows: text,
  given: text,
})
type PositionRow = t.TypeOf<typeof PositionRow>

const BegunRow = t.type({ inserted: t.boolean, evicted: t.number })
const StoredRow = t.type({ stored: t.boolean })
const ClaimedRow = t.type({ claimed: t.boolean, running: t.boolean, full: t.boolean, value: text })
const ListedRow = t.type({
  id: t.string,
  name: t.string,
  latest: text,
  step: text,
  answers: t.number,
  used: t.number,
})

const parsed = (json: string): Json => deepFreeze(JSON.parse(json)) as Json

const ifAny = (json: string | null): Json | undefined => (json === null ? undefined : parsed(json))

const endOf = (ended: string | null): FlowEnd | undefined => ifAny(ended) as FlowEnd | undefined

const positionOf =
  (row: string | undefined) =>
  ({ rowGeneration, rows, given, input, ended, ...head }: PositionRow): FlowPosition => ({
    head: {
      ...head,
      principal: head.principal ?? undefined,
      caller: ifAny(head.caller) as Caller | undefined,
      latest: head.latest ?? undefined,
      input: parsed(input),
      end: endOf(ended),
    },
    generation: row === undefined ? 0 : (rowGeneration ?? undefined),
    rows: ((ifAny(rows) as readonly FlowRow[] | undefined) ?? []).map((found) => ({
      ...found,
      parent: found.parent ?? undefined,
    })),
    given: ifAny(given),
  })

const keyOf = ({ session, flow }: FlowKey): readonly Param[] => [session, flow]

const effectOf = (key: EffectKey): readonly Param[] => [...keyOf(key), key.scope, key.name, key.occurrence]

const refused = ({ flow }: FlowKey, what: string): SaveConflict => new SaveConflict(flow, what, 'flow')

const ifStored = (key: FlowKey, what: string) =>
  TE.filterOrElseW(
    ({ stored }: { readonly stored: boolean }) => stored,
    () => refused(key, what),
  )

const claimedOf = ({ claimed, running, full, value }: t.TypeOf<typeof ClaimedRow>): Claimed => {
  if (claimed) return 'claimed'
  if (value !== null) return { value: parsed(value) }
  if (full) return 'full'
  return running ? 'busy' : 'refused'
}

type FlowStatements = ReturnType<typeof flowStatements>

/** The session store's `save` in a transaction. */
type SaveIn = (tx: Database) => SessionStore['save']

/** Makes the store of flows. */
export const flowsOver = (database: Database, sql: FlowStatements, saveIn: SaveIn): FlowStore => ({
  ...reading(database, sql),
  ...effects(database, sql),
  begin: (key, flow, row) =>
    pipe(
      rowAs(BegunRow)(database, sql.begin, beginParams(key, flow, row)),
      TE.filterOrElseW(
        ({ inserted }) => inserted,
        () => refused(key, 'begin'),
      ),
      TE.map(({ evicted }) => evicted),
    ),
  write: writing(database, sql, saveIn),
  drop: (key) => pipe(database.query(sql.drop, keyOf(key)), TE.map(constVoid)),
})

const reading = (database: Database, sql: FlowStatements): Pick<FlowStore, 'read' | 'list'> => ({
  read: ({ session, flow }, row, known) =>
    pipe(
      optionalRowAs(PositionRow)(database, sql.read, [session, flow, row ?? null, texts(known)]),
      TE.map(O.map(positionOf(row))),
    ),
  list: (session) =>
    pipe(
      rowsAs(ListedRow)(database, sql.list, [session]),
      TE.map(
        A.map(({ latest, step, used, ...flow }) => ({
          ...flow,
          latest: latest ?? undefined,
          step: step ?? undefined,
          usedAt: used,
        })),
      ),
    ),
})

const beginParams = (key: FlowKey, flow: NewFlow, row: NewRow | undefined): readonly Param[] => [
  ...[...keyOf(key), flow.name, flow.version, JSON.stringify(flow.input), flow.seed, flow.principal ?? null],
  ...[
    flow.caller === undefined ? null : JSON.stringify(flow.caller),
    flow.idleMs ?? null,
    flow.maxAgeMs ?? null,
  ],
  ...(row === undefined
    ? [null, null, null, null, 0]
    : [row.id, row.step, JSON.stringify(row.records), row.made, row.chars]),
]

const advanceParams = (key: FlowKey, { generation, principal }: Seen, row: NewRow): readonly Param[] => [
  ...[...keyOf(key), generation, principal ?? null, row.id, row.parent ?? null, row.step],
  ...[JSON.stringify(row.records), row.made, row.chars, row.cuts, row.parentMade ?? null],
]

const effects = (
  database: Database,
  sql: FlowStatements,
): Pick<FlowStore, 'claim' | 'record' | 'release'> => ({
  claim: (claim: Claim, generation) =>
    pipe(
      rowAs(ClaimedRow)(database, sql.claim, [...effectOf(claim), claim.claim, claim.claimMs, generation]),
      TE.map(claimedOf),
    ),
  record: (claim, value, chars) =>
    pipe(
      database.query(sql.record, [...effectOf(claim), claim.claim, JSON.stringify(value), chars]),
      TE.map((rows) => rows.length > 0),
    ),
  release: (claim) => pipe(database.query(sql.release, [...effectOf(claim), claim.claim]), TE.map(constVoid)),
})

/**
 * Runs the parts of a write. A single part is one statement. Several parts are one transaction, which locks the header
 * first, then the called flows, and then the caller.
 */
const writing =
  (database: Database, sql: FlowStatements, saveIn: SaveIn): FlowStore['write'] =>
  ({ session, row, ends, change }) => {
    const parts = (handle: Database): readonly Part[] => [
      ...ends.map(({ key, seen, to, made }) => {
        const params = [
          ...keyOf(key),
          seen.generation,
          seen.principal ?? null,
          JSON.stringify({ to, made }),
          made,
        ]
        return pipe(rowAs(StoredRow)(handle, sql.end, params), ifStored(key, 'end'))
      }),
      ...(row === undefined ? [] : [advancing(handle, sql, row)]),
    ]
    const all = (handle: Database) => TE.sequenceSeqArray(parts(handle))
    // Most writes are a single row. Each function of `TaskEither` makes three promises, so this write makes its own.
    if (change === undefined && ends.length === 0 && row !== undefined) return advancing(database, sql, row)
    if (change !== undefined)
      return database.transaction((tx) =>
        pipe(
          saveIn(tx)(session, change),
          TE.chainFirstW(() => all(tx)),
        ),
      )
    return pipe(
      row === undefined && ends.length < 2 ? all(database) : database.transaction(all),
      TE.map(() => undefined),
    )
  }

type Part = TE.TaskEither<StoreError | SaveConflict, unknown>

const advancing = (
  handle: Database,
  sql: FlowStatements,
  { key, seen, row }: RowWrite,
): TE.TaskEither<StoreError | SaveConflict, undefined> =>
  rowsTo(StoredRow)(handle, sql.advance, advanceParams(key, seen, row), ([stored]) =>
    stored?.stored === true ? E.right(undefined) : E.left(refused(key, 'advance')),
  )

/** Makes the operation of a batch that stores rows of different flows in one statement. */
export const rowsBatch =
  (database: Database, sql: FlowStatements): NonNullable<BatchOperations['addRows']> =>
  (rows) =>
    pipe(
      rowsAs(Ordinal)(
        database,
        sql.advanceAll,
        arraysOf(rows.map(({ key, seen, row }) => advanceParams(key, seen, row))),
      ),
      TE.map((stored) => {
        const ordinals = new Set(stored.map(({ n }) => n))
        return rows.map((_, index) => ordinals.has(index + 1))
      }),
    )

/** Returns an array for each parameter, with its values in the order of the writes. */
const arraysOf = (writes: readonly (readonly Param[])[]): readonly Param[] =>
  (writes[0] ?? []).map((_, place) =>
    texts(
      writes.map((params) => {
        const value = params[place]
        return value === null || value === undefined ? undefined : String(value)
      }),
    ),
  )
