// Keeps the rows of flows that this process has read or written. Rows never change, so a request reads only the rows that
// the process lacks. The cache is bounded by the number of characters of its records.

import { LRUCache } from 'lru-cache'
import { type FlowKey, type FlowRow, versionOf } from '../store/flow-contract.js'
import { type Entry, entryOf } from './journal.js'

interface CachedRow {
  readonly parent: string | undefined
  readonly generation: number
  readonly version: string
  readonly entries: readonly Entry[]
  readonly chars: number
  /** The number of records from the first answer to the end of this row. */
  readonly length: number
}

export interface CachedFlow {
  /** The rows of the flow, the last added last. A row's ancestors are in the map too. */
  readonly rows: Map<string, CachedRow>
  chars: number
}

export const MAX_CHARS = 16 * 1024 * 1024

/** The memory that a row takes beside its records, in characters. */
const ROW_CHARS = 300

/** The maximum number of known rows that a read names. */
const MAX_KNOWN = 64

const flows = new LRUCache<string, CachedFlow>({
  maxSize: MAX_CHARS,
  sizeCalculation: ({ chars }) => chars + ROW_CHARS,
})

/** A row and its position in the journal. `end` is the number of records from the first answer to the row's end. */
interface Boundary {
  readonly row: string | undefined
  readonly end: number
  readonly generation: number
}

/** The position of the first page. */
const FIRST: Boundary = { row: undefined, end: 0, generation: 0 }

/** The records that lead to a row, the first page, and the rows, the oldest first. */
export interface Journal {
  readonly entries: readonly Entry[]
  readonly boundaries: readonly Boundary[]
}

// A browser chooses the id of a flow that it begins, so another session may have a flow with the same id.
const nameOf = ({ session, flow }: FlowKey): string => `${session} ${flow}`

/** Returns the cached rows of a flow. A request keeps the result, since the cache may evict the flow meanwhile. */
export const cachedFlow = (key: FlowKey): CachedFlow =>
  flows.get(nameOf(key)) ?? { rows: new Map(), chars: 0 }

/** Returns the rows that a read may leave out. If the requested row is known, these are only this row. */
export const knownRows = ({ rows }: CachedFlow, row: string | undefined): readonly string[] => {
  const known = row === undefined ? undefined : rows.get(row)
  if (known !== undefined) return [known.version]
  return [...rows.values()].slice(-MAX_KNOWN).map(({ version }) => version)
}

/** Adds rows to the cache, the oldest first. */
export const addRows = (key: FlowKey, cached: CachedFlow, added: readonly FlowRow[]): void => {
  for (const row of added) {
    const { id, parent, generation, records } = row
    const entries = records.map(entryOf)
    const chars = JSON.stringify(records).length + ROW_CHARS
    const length = entries.length + (parent === undefined ? 0 : (cached.rows.get(parent)?.length ?? 0))
    cached.chars -= cached.rows.get(id)?.chars ?? 0
    cached.rows.set(id, { parent, generation, version: versionOf(row), entries, chars, length })
    cached.chars += chars
  }
  if (added.length === 0) return
  // The cache measures a value only when it is new.
  flows.delete(nameOf(key))
  flows.set(nameOf(key), cached)
}

/** The number of characters in the cache. */
export const cachedChars = (): number => flows.calculatedSize

/** Returns the journal of a row that was read, with the rows that were left out of the read. */
export const journalOf = ({ rows }: CachedFlow, row: string | undefined): Journal => {
  const found: (readonly [string, CachedRow])[] = []
  for (let at = row; at !== undefined; ) {
    const cached = rows.get(at)
    if (cached === undefined) throw new Error(`the store returned no row ${at}`)
    found.push([at, cached])
    at = cached.parent
  }
  found.reverse()
  return {
    entries: found.flatMap(([, { entries }]) => entries),
    boundaries: [
      FIRST,
      ...found.map(([id, { length, generation }]) => ({ row: id, end: length, generation })),
    ],
  }
}
