// Defines the head of a session: the saves that a shared cache has and the store does not have yet. The head names the state
// of the store to which its saves apply, by revision and version tag. All functions of this file are pure.

import {
  applyEdits,
  deleted,
  type Edits,
  type Entries,
  hasUpdates,
  noEdits,
  noEntries,
  setTo,
} from '../core/edits.js'
import { deepFreeze, type Json, jsonSize } from '../core/json.js'
import { E, O, t } from '../core/prelude.cjs'
import { makeSnapshot, type Snapshot } from '../core/session.js'
import { type IdempotencyKey, type SessionId, sha256 } from '../core/token.js'
import type { Change, HeaderState, LateRequest, LateState } from '../store/contract.js'
import type { Sealing } from './sealed.js'

/** A save that the store may not have yet. */
interface HeadSave {
  readonly id: IdempotencyKey
  readonly keys: readonly string[]
  /** Whether the save has an update, whose function only the process of the save has. */
  readonly updates: boolean
}

/** The last value of a key, or `undefined` if the key was deleted, and the number of the save that wrote it, from 1. */
interface HeadValue {
  readonly save: number
  readonly value: Json | undefined
}

export interface Head {
  readonly base: HeaderState
  readonly saves: readonly HeadSave[]
  readonly values: ReadonlyMap<string, HeadValue>
  /** The time of the first save, in milliseconds since 1970 by the clock of its process. */
  readonly at: number
  /** The requests that save in the store at the moment, so that no save may be added, with the times of their beginning. */
  readonly closers: readonly (readonly [closer: string, at: number])[]
}

/** The mark of a session that has ended. No save is added to it. */
export const ENDED = 'ended'

/** The maximum number of saves, and the approximate maximum number of characters of values in a head. */
const MAX_SAVES = 32
const MAX_CHARS = 256 * 1024

/** No state of a session. */
export const UNKNOWN_STATE: HeaderState = { revision: 0, versionTag: '' as IdempotencyKey }

/** Returns the head without saves for a state of the store. */
export const emptyHead = ({ revision, versionTag }: HeaderState): Head => ({
  base: { revision, versionTag },
  saves: [],
  values: new Map(),
  at: 0,
  closers: [],
})

/** A request that has not ended after this time has probably ended with its process. */
const CLOSED_MS = 5_000

const present = ({ closers }: Head, now: number): Head['closers'] =>
  closers.filter(([, at]) => now - at < CLOSED_MS)

export const isClosed = (head: Head, now: number): boolean => present(head, now).length > 0

export const closedBy = (head: Head, closer: string, now: number): Head => ({
  ...head,
  closers: [...present(head, now), [closer, now]],
})

/** Returns the head without a closer. A save in the store has changed the session, and `state` is its present state. */
export const openedBy = (head: Head, closer: string, { revision, versionTag }: HeaderState): Head => ({
  ...head,
  base: head.saves.length === 0 ? { revision, versionTag } : head.base,
  closers: head.closers.filter(([other]) => other !== closer),
})

// The version tag after some saves of a head. It names the state before the saves and all saves, so it names one state
// only. A save's own idempotency key would not, since the save may be done again on another state.
const chainTag = (tag: IdempotencyKey, saves: readonly HeadSave[]): IdempotencyKey =>
  sha256(`${tag} ${saves.map(({ id }) => id).join(' ')}`).slice(0, 16) as IdempotencyKey

/** Returns the state of the store after the first `count` saves. */
const stateAfter = ({ base, saves }: Head, count: number): HeaderState =>
  count === 0
    ? base
    : { revision: base.revision + count, versionTag: chainTag(base.versionTag, saves.slice(0, count)) }

/** Returns how many saves of the head a state of the store has, or `undefined` if the head does not fit the state. */
export const savesIn = (head: Head, { revision, versionTag }: HeaderState): number | undefined => {
  const count = revision - head.base.revision
  if (count < 0 || count > head.saves.length) return undefined
  return stateAfter(head, count).versionTag === versionTag ? count : undefined
}

/** Whether the head was made from a newer state of the store. */
export const isNewer = ({ base }: Head, { revision }: HeaderState): boolean => base.revision > revision

/** Returns the revision after all saves of the head. */
export const lastRevision = ({ base, saves }: Head): number => base.revision + saves.length

/** Returns the session with all saves of the head. `stored` is the state on which the head was made. */
export const tipOf = (head: Head, stored: Snapshot): Snapshot => {
  if (head.saves.length === 0) return stored
  const { revision, versionTag } = stateAfter(head, head.saves.length)
  const entries = stored.entries.withMutations((hash) => {
    for (const [key, { value }] of head.values)
      if (stored.keys?.has(key) !== false)
        if (value === undefined) hash.delete(key)
        else hash.set(key, value)
  })
  return makeSnapshot({ ...stored, revision, versionTag }, entries, stored.keys)
}

export const hasSave = ({ saves }: Head, id: IdempotencyKey): boolean => saves.some((save) => save.id === id)

/** Adds a save. `entries` are the session's entries after the save. */
export const withSave = (
  head: Head,
  { save: id, edits }: Pick<Change, 'save' | 'edits'>,
  entries: Entries,
  now: number,
  updates = hasUpdates(edits),
): Head => {
  const number = head.saves.length + 1
  const values = new Map(head.values)
  for (const key of edits.keys()) values.set(key, { save: number, value: entries.get(key) })
  return {
    base: head.base,
    saves: [...head.saves, { id, keys: [...edits.keys()], updates }],
    values,
    at: head.saves.length === 0 ? now : head.at,
    closers: head.closers,
  }
}

/** Whether the head has no room for `count` more saves. Then the head is stored before the next save. */
export const isFull = ({ saves, values }: Head, count: number): boolean =>
  saves.length + count > MAX_SAVES || charsOf(values) > MAX_CHARS

const charsOf = (values: Head['values']): number => {
  let chars = 0
  for (const [key, { value }] of values) chars += key.length + jsonSize(value ?? null)
  return chars
}

/** Returns the head without its first `count` saves, which the store has. */
export const withoutStored = (head: Head, count: number): Head => ({
  base: stateAfter(head, count),
  saves: head.saves.slice(count),
  values: new Map(
    [...head.values]
      .filter(([, { save }]) => save > count)
      .map(([key, { save, value }]) => [key, { save: save - count, value }]),
  ),
  at: head.at,
  closers: head.closers,
})

/** Returns the request that stores all saves of a head. */
export const requestOf = (id: SessionId, head: Head): LateRequest => {
  const { base, saves, values } = head
  const since = makeSnapshot({ ...base, expiration: 0, touchDue: false }, noEntries, undefined)
  let [edits, entries] = [noEdits, noEntries]
  for (const [key, { value }] of values) {
    edits = edits.set(key, value === undefined ? deleted() : setTo(value))
    if (value !== undefined) entries = entries.set(key, value)
  }
  const changes = saves.map((_, index) => {
    const { versionTag: save } = stateAfter(head, index + 1)
    return { save, edits, since, entries }
  })
  return { id, changes, edits, since, entries, saves: saves.map((save) => save.id) }
}

/**
 * Returns the head on another state of the store, which another request has made beside the head. Saves that are stored
 * are left out. The values of all other keys stay. A key that was written beside the head gets the saves of this process
 * (`own`) once more. A save of another process stays if it needs no function for such a key. Otherwise the save is left
 * out, and its own process saves it again. In an old head (`isOld`) such a save may be stored and forgotten, so it is
 * always left out.
 */
export const rebased = (
  head: Head,
  stored: Snapshot,
  { stored: done, changed }: LateState,
  own: ReadonlyMap<IdempotencyKey, Change>,
  isOld = false,
): Head => {
  const left = head.saves
    .map((save, index) => ({ ...save, number: index + 1 }))
    .filter(({ id }) => !done.includes(id))
  const anew = new Set(changed ?? head.values.keys())
  const dropped = savesToDrop(head, left, anew, own, isOld)
  let [result, entries] = [{ ...emptyHead(stored), closers: head.closers }, stored.entries]
  for (const save of left.filter(({ id }) => !dropped.has(id))) {
    const edits = editsOf(head, save.keys, own.get(save.id), (key) => anew.has(key))
    const applied = E.tryCatch(
      () => applyEdits(edits, entries),
      () => undefined,
    )
    // A function may throw on the newer values. Its save is left out.
    if (E.isLeft(applied)) continue
    entries = applied.right
    result = withSave(result, { save: save.id, edits }, entries, head.at, save.updates)
  }
  return result
}

interface NumberedSave extends HeadSave {
  readonly number: number
}

/** Finds the saves to leave out, and adds their keys to `anew`, since these keys have to be computed anew too. */
const savesToDrop = (
  head: Head,
  left: readonly NumberedSave[],
  anew: Set<string>,
  own: ReadonlyMap<IdempotencyKey, Change>,
  isOld: boolean,
): ReadonlySet<IdempotencyKey> => {
  const dropped = new Set<IdempotencyKey>()
  const isToDrop = ({ id, keys, updates, number }: NumberedSave): boolean =>
    !dropped.has(id) &&
    !own.has(id) &&
    keys.some((key) => anew.has(key)) &&
    (isOld || updates || !keys.every((key) => head.values.get(key)?.save === number))
  for (let next = left.find(isToDrop); next !== undefined; next = left.find(isToDrop)) {
    dropped.add(next.id)
    for (const key of next.keys) anew.add(key)
  }
  return dropped
}

/** Returns the edits of a save: those of the process for a key that is computed anew, otherwise the values of the head. */
const editsOf = (
  { values }: Head,
  keys: readonly string[],
  change: Change | undefined,
  isAnew: (key: string) => boolean,
): Edits =>
  keys.reduce((edits, key) => {
    const own = isAnew(key) ? change?.edits.get(key) : undefined
    const value = values.get(key)?.value
    return edits.set(key, own ?? (value === undefined ? deleted() : setTo(value)))
  }, noEdits)

const Content = t.type({
  revision: t.number,
  versionTag: t.string,
  saves: t.array(t.tuple([t.string, t.array(t.string), t.boolean])),
  values: t.array(t.tuple([t.string, t.number, t.array(t.unknown)])),
  at: t.number,
  closers: t.array(t.tuple([t.string, t.number])),
})

const sealedAs = (id: SessionId): string => `head ${id}`

/** Encodes a head, or the mark of a session that has ended. */
export const sealHead = ({ seal }: Sealing, id: SessionId, head: Head | typeof ENDED): Uint8Array =>
  seal(
    sealedAs(id),
    head === ENDED
      ? ENDED
      : JSON.stringify({
          ...head.base,
          saves: head.saves.map((save) => [save.id, save.keys, save.updates]),
          values: [...head.values].map(([key, { save, value }]) => [
            key,
            save,
            value === undefined ? [] : [value],
          ]),
          at: head.at,
          closers: head.closers,
        }),
  )

/** Decodes a head. Returns `None` for a value that is no head of this session. */
export const openHead = (
  { open }: Sealing,
  id: SessionId,
  bytes: Uint8Array,
): O.Option<Head | typeof ENDED> =>
  O.chain((text: string): O.Option<Head | typeof ENDED> => (text === ENDED ? O.some(ENDED) : headOf(text)))(
    open(sealedAs(id), bytes),
  )

const headOf = (text: string): O.Option<Head> => {
  const decoded = Content.decode(JSON.parse(text))
  if (E.isLeft(decoded)) return O.none
  const { revision, versionTag, saves, values, at, closers } = decoded.right
  return O.some({
    base: { revision, versionTag: versionTag as IdempotencyKey },
    saves: saves.map(([id, keys, updates]) => ({ id: id as IdempotencyKey, keys, updates })),
    values: new Map(
      values.map(([key, save, [value]]) => [key, { save, value: deepFreeze(value) as Json | undefined }]),
    ),
    at,
    closers,
  })
}
