// Keeps the rows of flows that this process has read or written. Rows never change, so a request reads only the rows that
// the process lacks. The cache is bounded by the number of characters of its records. Also keeps a limited number of
// running bodies, so that the next answer in a long flow needs no replay.

import { LRUCache } from 'lru-cache'
import { type FlowHead, type FlowKey, type FlowRow, versionOf } from '../store/flow-contract.js'
import { type Entry, entryOf, type Replayed } from './journal.js'
import type { AnyFlow } from './steps.js'

interface CachedRow {
  readonly id: string
  readonly parent: CachedRow | undefined
  readonly generation: number
  readonly made: string
  readonly entries: readonly Entry[]
  readonly chars: number
  /** The number of records from the first answer to the end of this row. */
  readonly length: number
}

export interface CachedFlow {
  /** The name of the flow in the caches. */
  readonly name: string
  /** The flow as this process has last read or written it. Another process may have changed it. */
  head: FlowHead | undefined
  /** The rows of the flow, the last added last. A row's ancestors are in the map too. */
  readonly rows: Map<string, CachedRow>
  chars: number
  /** The journal that was read last. The next one often has the same rows, and one more. */
  last: { readonly row: CachedRow; readonly records: Records } | undefined
}

const MAX_CHARS = 16 * 1024 * 1024

/** The memory that a row takes beside its records, in characters. */
const ROW_CHARS = 300

/** The maximum number of known rows that a read names. */
const MAX_KNOWN = 64

// The cache measures a value only when it is new. So each change of a flow stores a new object.
const flows = new LRUCache<string, { readonly rows: CachedFlow }>({
  maxSize: MAX_CHARS,
  sizeCalculation: ({ rows: { chars } }) => chars + ROW_CHARS,
})

/** A row and its position in the journal. `end` is the number of records from the first answer to the row's end. */
interface Boundary {
  readonly row: string | undefined
  readonly end: number
  readonly generation: number
}

/** The position of the first page. */
const FIRST: Boundary = { row: undefined, end: 0, generation: 0 }

/** The records that lead to a row, and the positions of the first page and of the rows, the oldest first. */
interface Records {
  readonly entries: readonly Entry[]
  readonly boundaries: readonly Boundary[]
}

/**
 * The records that lead to a row. They are collected when they are first read. A request with a running body does not
 * read them, so its cost does not depend on their number.
 */
export class Journal implements Records {
  /** The number of records. */
  readonly length: number
  readonly #cached: CachedFlow
  readonly #row: CachedRow | undefined
  #records: Records | undefined

  constructor(cached: CachedFlow, row: CachedRow | undefined) {
    this.#cached = cached
    this.#row = row
    this.length = row?.length ?? 0
  }

  get entries(): readonly Entry[] {
    return this.#collected().entries
  }

  get boundaries(): readonly Boundary[] {
    return this.#collected().boundaries
  }

  #collected(): Records {
    this.#records ??= recordsOf(this.#cached, this.#row)
    return this.#records
  }
}

const recordsOf = (cached: CachedFlow, row: CachedRow | undefined): Records => {
  if (row === undefined) return { entries: [], boundaries: [FIRST] }
  const { last } = cached
  if (last?.row === row) return last.records
  const chain: CachedRow[] = []
  let above: CachedRow | undefined = row
  for (; above !== undefined && above !== last?.row; above = above.parent) chain.push(above)
  const known = above === undefined ? undefined : last?.records
  const [entries, boundaries] = [known?.entries.slice() ?? [], known?.boundaries.slice() ?? [FIRST]]
  for (const { id, entries: own, length, generation } of chain.reverse()) {
    for (const entry of own) entries.push(entry)
    boundaries.push({ row: id, end: length, generation })
  }
  cached.last = { row, records: { entries, boundaries } }
  return cached.last.records
}

// A browser chooses the id of a flow that it begins, so another session may have a flow with the same id.
const nameOf = ({ session, flow }: FlowKey): string => `${session} ${flow}`

/** Returns the cached rows of a flow. A request keeps the result, since the cache may evict the flow meanwhile. */
export const cachedFlow = (key: FlowKey): CachedFlow => {
  const name = nameOf(key)
  return flows.get(name)?.rows ?? { name, head: undefined, rows: new Map(), chars: 0, last: undefined }
}

/** Returns the rows that a read may leave out. If the requested row is known, these are only this row. */
export const knownRows = ({ rows }: CachedFlow, row: string | undefined): readonly string[] => {
  const known = row === undefined ? undefined : rows.get(row)
  if (known !== undefined) return [versionOf({ id: row ?? '', made: known.made })]
  return [...rows].slice(-MAX_KNOWN).map(([id, { made }]) => versionOf({ id, made }))
}

/** Adds rows to the cache, the oldest first, and sets the head of the flow. */
export const addRows = (
  cached: CachedFlow,
  added: readonly (FlowRow & { readonly chars?: number; readonly entries?: readonly Entry[] })[],
  head: FlowHead | undefined,
): void => {
  cached.head = head
  for (const row of added) {
    const { id, generation, made, records } = row
    // Rows never change. Other rows are linked to the present object.
    if (cached.rows.get(id)?.made === made) continue
    const parent = row.parent === undefined ? undefined : rowIn(cached, row.parent)
    const entries = row.entries ?? records.map(entryOf)
    const chars = (row.chars ?? JSON.stringify(records).length) + ROW_CHARS
    const length = entries.length + (parent?.length ?? 0)
    cached.chars -= cached.rows.get(id)?.chars ?? 0
    cached.rows.set(id, { id, parent, generation, made, entries, chars, length })
    cached.chars += chars
  }
  if (added.length === 0) return
  flows.set(cached.name, { rows: cached })
}

/** Returns the journal of a row that was read, with the rows that were left out of the read. */
export const journalOf = (cached: CachedFlow, row: string | undefined): Journal =>
  new Journal(cached, row === undefined ? undefined : rowIn(cached, row))

const rowIn = ({ rows }: CachedFlow, id: string): CachedRow => {
  const row = rows.get(id)
  if (row === undefined) throw new Error(`the store returned no row ${id}`)
  return row
}

/** The maximum number of running bodies that a process keeps. */
const MAX_BODIES = 200

/** A running body that waits at a row. It is in the same state as after a replay. */
interface KeptBody {
  readonly row: string
  readonly made: string
  readonly flow: AnyFlow
  readonly body: Replayed
}

const bodies = new LRUCache<string, KeptBody>({ max: MAX_BODIES })

/** Keeps the body that waits at a row, for the next answer. The caller no longer uses the body. */
export const keepBody = ({ name }: CachedFlow, kept: KeptBody): void => {
  bodies.set(name, kept)
}

/** Returns the body that waits at a row, if there is one. Only the caller may use the body from then on. */
export const takeBody = (
  { name }: CachedFlow,
  row: string | undefined,
  made: string | undefined,
  flow: AnyFlow,
): Replayed | undefined => {
  const kept = bodies.get(name)
  if (kept?.row !== row || kept?.made !== made || kept?.flow !== flow) return undefined
  bodies.delete(name)
  return kept.body
}
