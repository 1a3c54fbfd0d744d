// Decides whether some order of the operations explains a history. A history has the operations of several processes on
// shared sessions, with their results, start times and end times.
//
// Each process appends tags to one list in each session, by updates. So the list shows their order, and each list that
// was read must be a prefix of the final list. Each process also sets and deletes its own key. An operation that ended
// before another operation began must come first.

import { createHash } from 'node:crypto'
import { times } from './at-length.js'

interface Seen {
  readonly revision: number
  readonly list: { readonly n: number; readonly hash: string }
  readonly own: string | null
}

/** One operation. `unknown` means that it failed, and may have been done. */
export interface Operation {
  readonly worker: string
  readonly session: string
  readonly kind: 'read' | 'append' | 'set' | 'delete' | 'destroy'
  readonly tag: string
  readonly result: 'ok' | 'none' | 'gone' | 'unknown'
  /** Times are in microseconds. `loaded` is the time between the load and the save. */
  readonly start: number
  readonly loaded?: number
  readonly end: number
  readonly before?: Seen
  readonly after?: Seen
  readonly error?: string
}

/** What was done to a history, by times in microseconds. */
interface Troubles {
  /** The deaths of processes, by the names of the processes. */
  readonly deaths: ReadonlyMap<string, number>
  /** The times in which the cache lost the head of a session, or of all sessions, or did not answer a process. */
  readonly losses: readonly { readonly from: number; readonly to: number; readonly session?: string }[]
}

/** The values of each session at the end, or `undefined` if the session has ended. */
export type Final = ReadonlyMap<string, Readonly<Record<string, unknown>> | undefined>

interface CheckOptions {
  readonly seesAll?: boolean
  readonly troubles?: Troubles
}

const NO_TROUBLES: Troubles = { deaths: new Map(), losses: [] }

/** The longest time for which a run stops a process, in milliseconds. */
export const LONGEST_STOP_MS = times(2_000, 20_000)

/**
 * A save is in the store when this time has passed since its answer or its process's end. Another process stores a head
 * that is older than four seconds, with up to three attempts of four seconds while PostgreSQL does not answer. A process
 * that is stopped stores nothing, and it may be stopped again when it goes on.
 */
const BEHIND_US = (11_000 + 2 * LONGEST_STOP_MS) * 1_000

const processOf = ({ worker }: Operation): string => worker.split('.')[0] ?? ''

/** Whether a save may be lost: its process died before the save was stored, and the cache lost or hid the save. */
const mayBeLost = ({ deaths, losses }: Troubles, operation: Operation): boolean => {
  const { end, session } = operation
  const death = deaths.get(processOf(operation)) ?? Number.POSITIVE_INFINITY
  return (
    death < end + BEHIND_US &&
    losses.some(
      (loss) => (loss.session ?? session) === session && loss.to >= end && loss.from <= death + BEHIND_US,
    )
  )
}

/** Says when the process of a save died, and when the cache lost the values of its session, in seconds after the save. */
const circumstances = ({ deaths, losses }: Troubles, operation: Operation): string => {
  const { end, session } = operation
  const after = (time: number): string => ((time - end) / 1e6).toFixed(2)
  const death = deaths.get(processOf(operation))
  const mine = losses.filter((loss) => (loss.session ?? session) === session && loss.to >= end)
  const lossTimes = mine
    .slice(0, 5)
    .map(({ from, to }) => `${after(from)} to ${after(to)}`)
    .join(', ')
  return ` (death: ${death === undefined ? 'none' : after(death)}; losses: ${lossTimes === '' ? 'none' : lossTimes})`
}

/** Returns the updates that were answered, and are not in the list at the end. */
export const lostUpdates = (operations: readonly Operation[], final: Final): readonly Operation[] => {
  const lists = new Map(
    [...final].flatMap(([session, entries]) =>
      entries === undefined ? [] : [[session, new Set(listIn(entries))]],
    ),
  )
  return operations.filter(
    ({ kind, result, session, tag }) =>
      kind === 'append' && result === 'ok' && lists.get(session)?.has(tag) === false,
  )
}

/**
 * Returns the violations in a history. With `seesAll: false`, a read may miss saves for a while. So only the end of each
 * session counts: no save is lost or done twice, and no session is found after its end. With `troubles`, saves may be
 * lost as these allow.
 */
export const violations = (
  operations: readonly Operation[],
  final: Final,
  { seesAll = true, troubles = NO_TROUBLES }: CheckOptions = {},
): readonly string[] =>
  [...final].flatMap(([session, entries]) => {
    const mine = operations.filter((operation) => operation.session === session)
    const ended = endViolations(mine, entries === undefined, seesAll)
    if (!seesAll)
      return [...ended, ...(entries === undefined ? [] : lostOrTwice(mine, entries, troubles))].map(
        (violation) => `session ${session.slice(0, 8)}: ${violation}`,
      )
    const found = [...ended, ...revisionViolations(mine)]
    const whole =
      entries === undefined ? [] : [...listViolations(mine, entries), ...ownViolations(mine, entries)]
    return [...found, ...whole].map((violation) => `session ${session.slice(0, 8)}: ${violation}`)
  })

/** A value that was read within an interval of time. */
interface Observation {
  readonly by: string
  readonly start: number
  readonly end: number
  readonly seen: Seen
}

const observations = (operations: readonly Operation[]): readonly Observation[] =>
  operations.flatMap(({ worker, kind, start, loaded, end, before, after }) => [
    ...(before === undefined ? [] : [{ by: `load of ${worker}`, start, end: loaded ?? end, seen: before }]),
    ...(after === undefined
      ? []
      : [{ by: `${kind} of ${worker}`, start: loaded ?? start, end, seen: after }]),
  ])

/** Finds observations in which a number is smaller than in an earlier observation. */
const falls = (all: readonly Observation[], figure: (seen: Seen) => number): readonly string[] => {
  const byEnd = [...all].sort((a, b) => a.end - b.end)
  let [next, highest] = [0, undefined as Observation | undefined]
  return [...all]
    .sort((a, b) => a.start - b.start)
    .flatMap((one) => {
      for (; next < byEnd.length && (byEnd[next]?.end ?? one.start) < one.start; next += 1) {
        const ended = byEnd[next] as Observation
        if (highest === undefined || figure(ended.seen) > figure(highest.seen)) highest = ended
      }
      return highest !== undefined && figure(one.seen) < figure(highest.seen)
        ? [`${described(one, figure)} after ${described(highest, figure)}`]
        : []
    })
}

const described = ({ by, start, end, seen }: Observation, figure: (seen: Seen) => number): string =>
  `${String(figure(seen))} was seen by the ${by} from ${String(start)} to ${String(end)} µs`

const revisionViolations = (operations: readonly Operation[]): readonly string[] =>
  falls(observations(operations), (seen) => seen.revision).map((fall) => `the revision fell: ${fall}`)

const listIn = (entries: Readonly<Record<string, unknown>>): readonly string[] =>
  (entries['list'] ?? []) as readonly string[]

const lostOrTwice = (
  operations: readonly Operation[],
  entries: Readonly<Record<string, unknown>>,
  troubles: Troubles,
): readonly string[] => {
  const list = listIn(entries)
  const present = new Set(list)
  const appends = operations.filter(({ kind }) => kind === 'append')
  const issued = new Set(appends.map(({ tag }) => tag))
  const lost = appends.filter(
    (append) => append.result === 'ok' && !present.has(append.tag) && !mayBeLost(troubles, append),
  )
  const refused = appends.filter(({ result, tag }) => result === 'gone' && present.has(tag))
  return [
    ...(present.size === list.length ? [] : ['an update was applied twice']),
    ...list.filter((tag) => !issued.has(tag)).map((tag) => `${tag} comes from nowhere`),
    ...lost.map((append) => `the update ${append.tag} was lost${circumstances(troubles, append)}`),
    ...refused.map(({ tag }) => `the update ${tag} was refused, and is there`),
  ]
}

const listViolations = (
  operations: readonly Operation[],
  entries: Readonly<Record<string, unknown>>,
): readonly string[] => {
  const list = listIn(entries)
  const position = new Map(list.map((tag, index) => [tag, index]))
  const hashes = Array.from({ length: list.length + 1 }, (_, n) => hashOf(list.slice(0, n)))
  const appends = operations.filter(({ kind }) => kind === 'append')
  const misplaced = appends.filter(
    ({ tag, after }) => after !== undefined && after.list.n < (position.get(tag) ?? -1) + 1,
  )
  const strange = observations(operations).filter(({ seen }) => seen.list.hash !== hashes[seen.list.n])
  return [
    ...lostOrTwice(operations, entries, NO_TROUBLES),
    ...misplaced.map(({ tag }) => `the update ${tag} does not see itself`),
    ...strange.map(
      ({ seen }) => `a list of ${String(seen.list.n)} was seen that is no beginning of the last one`,
    ),
    ...falls(observations(operations), (seen) => seen.list.n).map((fall) => `the list shrank: ${fall}`),
  ]
}

const hashOf = (list: readonly string[]): string =>
  createHash('sha1').update(JSON.stringify(list)).digest('hex')

/**
 * Each worker has a key that no other worker writes. So it must find the last value that it stored, or tried to store
 * later.
 */
const ownViolations = (
  operations: readonly Operation[],
  entries: Readonly<Record<string, unknown>>,
): readonly string[] =>
  [...new Set(operations.map(({ worker }) => worker))].flatMap((worker) => {
    let possible: readonly (string | null)[] = [null]
    const found: string[] = []
    const look = (value: string | null, where: string): void => {
      if (!possible.includes(value))
        found.push(`${worker} found ${String(value)} ${where}, not ${possible.join(' or ')}`)
    }
    for (const { kind, tag, result, before, after } of operations.filter(
      (operation) => operation.worker === worker,
    )) {
      if (before !== undefined) look(before.own, 'in its key')
      const value = kind === 'set' ? tag : null
      if (kind !== 'set' && kind !== 'delete') continue
      possible = result === 'ok' ? [value] : [...possible, value]
      if (after !== undefined) look(after.own, 'after its save')
    }
    look((entries[`own ${worker}`] as string | undefined) ?? null, 'at the end')
    return found
  })

/**
 * After its destruction a session is never found or saved. Before the first attempt of a destruction the session is
 * always found.
 */
const endViolations = (
  operations: readonly Operation[],
  ended: boolean,
  seesAll: boolean,
): readonly string[] => {
  const tried = Math.min(...operations.filter(({ kind }) => kind === 'destroy').map(({ start }) => start))
  const missing = operations.filter(
    ({ result, end }) => (result === 'none' || result === 'gone') && end < tried,
  )
  const ends = operations
    .filter(({ kind, result }) => kind === 'destroy' && result === 'ok')
    .map(({ end }) => end)
  const over = Math.min(...ends)
  // A save that is answered by a cache may overlap the end.
  const back = observations(operations).filter(
    ({ start, by }) => start > over && (seesAll || by.startsWith('load')),
  )
  const vanished = ended && tried === Number.POSITIVE_INFINITY
  return [
    ...(vanished ? ['it is gone at the end, though nobody had destroyed it'] : []),
    ...missing.map(({ worker }) => `${worker} did not find it, though nobody had destroyed it`),
    ...back.map(
      ({ seen }) => `it was there, at revision ${String(seen.revision)}, after it had been destroyed`,
    ),
  ]
}
