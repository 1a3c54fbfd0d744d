// A process that has a PGlite directory open: it stores one value for each line it is sent, and prints the
// session's token each time.

import { createInterface } from 'node:readline'
import { pgliteDatabase } from 'keyrow/pglite'
import { buildSession, closeDatabase, saveSession, sessionSet, sessionToken } from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'

const database = pgliteDatabase(process.argv[2])
let session = buildSession(sessionStore(database))
for await (const line of createInterface({ input: process.stdin })) {
  try {
    session = await saveSession(sessionSet(line, true)(session))
    console.log(sessionToken(session))
  } catch (error) {
    console.log(String(error))
  }
}
await closeDatabase(database)
