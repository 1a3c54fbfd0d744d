// Defines records for notes, tags and authors, their relations, and operations on them. The code is the same for every
// database.

import { flow, pipe } from 'fp-ts/lib/function.js'
import * as RA from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import { type Session, saveSession, sessionKey, sessionUpdate } from 'keyrow'
import {
  generated,
  int4,
  int8,
  queryMany,
  type RecordValue,
  record,
  sql,
  text,
  timestamptz,
  transact,
  withHandle,
} from 'keyrow/records'
import type { Database } from 'keyrow/store'

const users = record({
  table: 'notes_user',
  key: 'id',
  columns: { id: generated(int8), name: text },
})

const notes = record({
  table: 'notes_note',
  key: 'id',
  revision: 'revision',
  columns: {
    id: generated(int8),
    authorId: users.reference,
    title: text,
    views: generated(int4),
    createdAt: generated(timestamptz),
    revision: generated(int4),
  },
})

const tags = record({ table: 'notes_tag', key: 'name', columns: { name: text } })

const taggings = record({
  table: 'notes_tagging',
  key: ['noteId', 'tagName'],
  columns: { noteId: notes.reference, tagName: tags.reference },
})

export type User = RecordValue<typeof users>
export type Note = RecordValue<typeof notes>

const tables = [
  sql`create table if not exists notes_user (id bigint generated always as identity primary key, name text not null unique)`,
  sql`create table if not exists notes_note (id bigint generated always as identity primary key,
        author_id bigint not null references notes_user, title text not null check (title <> ''), views int not null default 0,
        created_at timestamptz not null default now(), revision int not null default 1)`,
  sql`create table if not exists notes_tag (name text primary key)`,
  sql`create table if not exists notes_tagging (note_id bigint references notes_note, tag_name text references notes_tag,
        primary key (note_id, tag_name))`,
]

/** Creates missing tables. */
export const prepare = (database: Database) =>
  pipe(
    tables,
    TE.traverseSeqArray((statement) => queryMany(database, t.unknown, statement)),
  )

export const notesOf = notes.hasMany('authorId')
const tagsOf = tags.hasManyThrough(taggings, 'noteId', 'tagName')

/** The ids of the notes that the visitor of a session wrote. */
export const written = sessionKey('written', t.array(t.string))

export const signUp = (database: Database, name: string) =>
  pipe(users.build(database, { name }), TE.fromEither, TE.chainW(users.save))

const tagged = (note: Note) => (name: string) =>
  pipe(
    queryMany(
      note.handle,
      tags,
      sql`insert into notes_tag (name) values (${name}::text) on conflict (name) do update set name = excluded.name returning ${tags.row}`,
    ),
    TE.chainEitherKW(() => tags.id(name)),
    TE.chainEitherKW((tagName) => taggings.build(note.handle, { noteId: note.id, tagName })),
    TE.chainW(taggings.save),
  )

const remembered = (note: Note) =>
  flow(withHandle(note.handle)<Session>, sessionUpdate(written, RA.append(String(note.id)), []), saveSession)

/** Stores the note, its tags and the session in one transaction. The session gets the id of the note. */
export const write = (session: Session, author: User, title: string, names: readonly string[]) =>
  transact(author.handle, (tx) =>
    pipe(
      notes.build(tx, { authorId: author.id, title }),
      TE.fromEither,
      TE.chainW(notes.save),
      TE.chainFirstW((note) => pipe(names, TE.traverseSeqArray(tagged(note)))),
      TE.bindTo('note'),
      TE.bindW('session', ({ note }) => remembered(note)(session)),
      TE.map(({ note, session }) => ({
        note: withHandle(author.handle)(note),
        session: withHandle(author.handle)(session),
      })),
    ),
  )

export const view = flow(
  notes.update('views', (views) => views + 1),
  notes.save,
)

/** Returns each note with the names of its tags. It uses one statement. */
export const withTags = (found: readonly Note[]) =>
  pipe(
    tagsOf.preload(found),
    TE.map(RA.map(([{ title, views }, tags]) => ({ title, views, tags: tags.map(({ name }) => name) }))),
  )
