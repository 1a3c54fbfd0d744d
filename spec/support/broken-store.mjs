// Makes stores that break one law under concurrency, like some real stores. The history checker must find the
// violations.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'

const changed = (store, change) => ({ ...store, save: (id, save) => store.save(id, change(save)) })

const breaks = {
  none: (store) => store,
  // A save writes all entries as they were loaded.
  whole: (store) =>
    changed(store, (save) => ({
      ...save,
      edits: save.entries
        .map((value) => ({ _tag: 'Set', value }))
        .merge(save.edits.filter((edit) => edit._tag === 'Del')),
    })),
  // A save writes the first result of an update, even if the row has changed.
  unreplayed: (store) =>
    changed(store, (save) => ({
      ...save,
      edits: save.edits.map((edit, key) =>
        edit._tag === 'Update' ? { _tag: 'Set', value: save.entries.get(key) } : edit,
      ),
    })),
  // A load returns the copy of the process, and does not ask the store whether the copy is the present state.
  believed: (store) => {
    const copies = new Map()
    return {
      ...store,
      load: (id, secret, reading) => async () => {
        const copy = copies.get(id)
        if (copy !== undefined) return copy
        const loaded = await store.load(id, secret, reading)()
        copies.set(id, loaded)
        return loaded
      },
      save: (id, save) =>
        pipe(
          store.save(id, save),
          TE.map((saved) => {
            copies.delete(id)
            return saved
          }),
        ),
    }
  },
  // A load that has begun before the end of a session leaves its copy behind, and a later load returns the copy.
  filled: (store) => {
    const copies = new Map()
    return {
      ...store,
      load: (id, secret, reading) => async () => {
        const loaded = await store.load(id, secret, reading)()
        if (E.isLeft(loaded)) return loaded
        if (E.isLeft(loaded.right)) return copies.get(id) ?? loaded
        setTimeout(() => copies.set(id, loaded), 5)
        return loaded
      },
      destroy: (id) =>
        pipe(
          store.destroy(id),
          TE.map((ended) => {
            copies.delete(id)
            return ended
          }),
        ),
    }
  },
  // A session lives as long as the process has seen its values.
  alive: (store) => {
    const seen = new Map()
    return {
      ...store,
      load: (id, secret, reading) => async () => {
        const loaded = await store.load(id, secret, reading)()
        if (E.isRight(loaded) && E.isLeft(loaded.right)) return seen.get(id) ?? loaded
        seen.set(id, loaded)
        return loaded
      },
    }
  },
  // A save creates a session that does not exist.
  upsert: (store, forget) => {
    const secrets = new Map()
    return {
      ...store,
      load: (id, secret) => {
        secrets.set(id, secret)
        return store.load(id, secret)
      },
      save: (id, save) =>
        pipe(
          store.save(id, save),
          TE.orElse(() =>
            pipe(
              forget(id),
              TE.chain(() => store.create(id, secrets.get(id), save.save, save.entries)),
              TE.map((saved) => ({ ...saved, due: false, entries: save.entries })),
            ),
          ),
        ),
    }
  },
}

/** `forget` deletes the fence of an id, so that a creation can use the id again. */
export const broken = (kind, store, forget) => (breaks[kind] ?? breaks.none)(store, forget)

const cacheBreaks = {
  // A value replaces whatever other processes have written meanwhile.
  overwritten: (cache) => ({
    ...cache,
    swap: (items) =>
      pipe(
        cache.set(items),
        TE.map(() => items.map(() => true)),
      ),
  }),
  // A head is removed as soon as it has no saves, although loads are under way.
  removed: (cache) => ({
    ...cache,
    swap: (items) =>
      pipe(
        cache.swap(items),
        TE.chainFirst(() => cache.drop(items.filter(({ ttlMs }) => ttlMs === 60_000).map(({ key }) => key))),
      ),
  }),
}

/** Breaks the protocol of late saves. */
export const brokenCache = (kind, cache) => cacheBreaks[kind]?.(cache) ?? cache

/** `unstrict`: the saves of a head are stored, although another request has changed the session since. */
export const brokenDatabase = (kind, database) =>
  kind !== 'unstrict'
    ? database
    : {
        ...database,
        query: (query, params) =>
          database.query(
            query,
            query.name === 'batch.saveLate' ? params.with(3, params[3].replaceAll('true', 'false')) : params,
          ),
      }
