// Makes stores that break one law under concurrency, like some real stores. The history checker must find the
// violations.

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
export const broken = (kind, store, forget) => breaks[kind](store, forget)
