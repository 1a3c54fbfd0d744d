// Stores that break one promise under concurrency, as real ones have done: for showing that they are caught.

import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'

const changed = (store, change) => ({ ...store, save: (id, save) => store.save(id, change(save)) })

const breaks = {
  none: (store) => store,
  // The whole hash is written, as it was when it was loaded.
  whole: (store) =>
    changed(store, (save) => ({
      ...save,
      edits: save.entries
        .map((value) => ({ _tag: 'Set', value }))
        .merge(save.edits.filter((edit) => edit._tag === 'Del')),
    })),
  // What an update gave when it was made is written, whatever is in the row by then.
  unreplayed: (store) =>
    changed(store, (save) => ({
      ...save,
      edits: save.edits.map((edit, key) =>
        edit._tag === 'Update' ? { _tag: 'Set', value: save.entries.get(key) } : edit,
      ),
    })),
  // A save that finds no session makes one.
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

/** `forget` makes the store's listing forget an id, which it keeps so that no creation brings a session back. */
export const broken = (kind, store, forget) => breaks[kind](store, forget)
