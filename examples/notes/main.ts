// In this example two people write notes. The database is the PostgreSQL of DATABASE_URL, or PGlite if DATABASE_URL is
// not set. Run it with `node build/examples/notes/main.js`.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { buildSession, sessionRef } from 'keyrow'
import { pgliteDatabase } from 'keyrow/pglite'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { type Database, sessionStore } from 'keyrow/store'
import postgres from 'postgres'
import { notesOf, prepare, signUp, view, withTags, write, written } from './notes.js'

const url = process.env['DATABASE_URL']
const database: Database = url
  ? postgresDatabase(() => postgres(url, { ...poolOptions, onnotice: () => undefined }))
  : pgliteDatabase()

const story = pipe(
  prepare(database),
  TE.bindTo('tables'),
  TE.bindW('ada', () => signUp(database, 'Ada')),
  TE.bindW('first', ({ ada }) =>
    write(buildSession(sessionStore(database)), ada, 'On engines', ['machines', 'numbers']),
  ),
  TE.bindW('second', ({ ada, first }) => write(first.session, ada, 'On notes', ['numbers'])),
  // The database rejects the empty title, so the note, its tags and the session are not stored.
  TE.bindW('refused', ({ ada, second }) => TE.fromTask(write(second.session, ada, '', ['lost']))),
  TE.chainFirstW(({ first }) => view(first.note)),
  TE.chainFirstW(({ first }) => view(first.note)),
  TE.bindW('notes', ({ ada }) => notesOf(ada)),
  TE.bindW('listed', ({ notes }) => withTags(notes)),
)

const result = await story()
if (E.isLeft(result)) throw result.left
const { listed, refused, second } = result.right
console.log(JSON.stringify(listed))
console.log(refused._tag, E.isLeft(refused) && 'constraint' in refused.left ? refused.left.constraint : '')
console.log(sessionRef(written, [])(second.session).length)
await database.close()
