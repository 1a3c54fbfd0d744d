// Opens a PGlite directory. For each line of input, the process stores one value and prints the session's token.

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
