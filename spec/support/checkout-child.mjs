// Commits an order and an edit of the session in one transaction, and is killed before the request ends.

import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import {
  loadSession,
  queryDatabase,
  sessionSet,
  transact,
  updateCurrentSession,
  withSession,
} from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const [url, schema, token] = process.argv.slice(2)
const database = postgresDatabase(() => postgres(url, { ...poolOptions, onnotice: () => undefined }))
const session = await loadSession(sessionStore(database, { schema }), token)

await withSession(session, async () => {
  await updateCurrentSession(sessionSet('unsaved', true))
  await transact(database, async (tx) => {
    await queryDatabase(tx, { name: 'order', text: `insert into ${schema}.orders values ('tea')` }, [])
    await updateCurrentSession(sessionSet('ordered', 'tea'))
  })
  process.kill(process.pid, 'SIGKILL')
})
