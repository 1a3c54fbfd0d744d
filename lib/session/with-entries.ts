// Entries of another session, on top of a session's own.

import type { Json } from '../base/json.js'
import { composeEdits, type Edits, type Entries, noEdits, setTo } from './edits.js'
import { addFlashes } from './flash.js'
import { OWN } from './key.js'
import { type SessionValue, withEdits } from './session.js'

/** Sets all of them, but for messages, which are added. Doing it twice changes nothing. */
export const withEntries =
  (entries: Entries) =>
  <H>(session: SessionValue<H>): SessionValue<H> => {
    const sets: Edits = noEdits.withMutations((edits) => {
      for (const [key, value] of entries) if (key !== OWN.flash) edits.set(key, setTo(value))
    })
    const edited = withEdits(session, composeEdits(session.edits, sets))
    return entries.has(OWN.flash) ? addFlashes(entries.get(OWN.flash) as Json)(edited) : edited
  }
