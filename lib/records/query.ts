// SQL of your own: a tagged template, whole and explicit, run on a `Database` and decoded by a record or any codec.
// Statements have names in events and logs: that of a comment in their first line (`-- notes.recent`), or else `sql`
// and their first word.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type * as t from 'io-ts'
import tag, { type Sql } from 'sql-template-tag'
import { DecodeError, type DriverError } from '../core/errors.js'
import { problemsOf } from '../core/key.js'
import type { Database, Param, Query, Queryable, Row } from '../db/database.js'
import type { Column } from './column.js'
import { shapeIn } from './record.js'
import { recordIn } from './save.js'
import { encode, type Rows } from './table.js'

/**
 * A statement, or a part of one. An interpolated value is a parameter, another part goes in as it is. A parameter means
 * what its text would mean as a quoted literal in its place, on every driver: `${'{"a": 1}'}::jsonb` is an object,
 * `${'true'}::bool` is true. Say which type it is of (`${id}::int8`) where the statement does not, or let `param` say it.
 *
 * @example
 * ```ts
 * import { sql } from 'keyrow/records'
 *
 * const recent = sql`created_at > now() - interval '1 day'`
 * const statement = sql`select title from notes where author = ${'ada'}::text and ${recent}`
 * console.log(statement.text) // select title from notes where author = $1::text and created_at > now() - interval '1 day'
 * ```
 */
export const sql = (strings: TemplateStringsArray, ...values: readonly (Param | Sql)[]): Sql =>
  tag(strings, ...values)

/**
 * A parameter from a value of the program's, by a column: a `Date`, bytes, an array, JSON from an object. Throws an
 * `EncodeError` for a value that does not fit the column.
 *
 * @example
 * ```ts
 * import { array, param, sql, uuid } from 'keyrow/records'
 *
 * const ids = ['2f6d1a52-8ac5-4b7e-9a37-0d1f6c1f0a11']
 * console.log(sql`select title from notes where id = any(${param(array(uuid), ids)})`.text) // select title from notes where id = any($1::text::uuid[])
 * ```
 */
export const param = <A>(column: Column<A>, value: NoInfer<A>): Sql => {
  const { sql: type } = column
  return tag(['', `::text::${type}`], encode(type, column, value))
}

/** What decodes a row: a codec of the whole row, or a record, whose `row` the statement selects. */
export type RowsAs<A> = Rows<A> | t.Decoder<unknown, A>

type Failure = DriverError | DecodeError

const FIRST_WORD = /^\s*(?:--[ \t]*([\w.:-]+)[ \t]*\r?\n|\W*(\w+))/

const queryOf = ({ text }: Sql): Query => {
  const [, withName, word] = FIRST_WORD.exec(text) ?? []
  return { name: withName ?? `sql.${(word ?? 'statement').toLowerCase()}`, text }
}

/** A row by its place in the result. */
type Decode<A> = (row: Row, ordinal: number) => E.Either<DecodeError, A>

const decoderOf = <A>(handle: Database, as: RowsAs<A>): Decode<A> => {
  const shape = shapeIn(as)
  // A shape is kept for records alone, whose values are of the type that they say.
  if (shape !== undefined)
    return (row, ordinal) => recordIn(shape, handle, row, ordinal) as E.Either<DecodeError, A & object>
  const codec = as as t.Decoder<unknown, A>
  return (row, ordinal) => pipe(decode(codec, row), E.mapLeft(misfit(ordinal)))
}

// A codec is the user's code: when it throws, the row does not fit.
const decode = <A>(codec: t.Decoder<unknown, A>, row: Row): E.Either<t.Errors | string, A> => {
  try {
    return codec.decode(row)
  } catch (thrown) {
    return E.left(String(thrown))
  }
}

const misfit =
  (ordinal: number) =>
  (errors: t.Errors | string): DecodeError => {
    if (typeof errors === 'string') return new DecodeError('row', [errors], ordinal)
    // Members of an intersection are counted in the path; columns have names.
    const path = errors[0]?.context.slice(1).map(({ key }) => key) ?? []
    return new DecodeError(path.find((key) => !/^\d+$/.test(key)) ?? 'row', problemsOf(errors), ordinal)
  }

/**
 * All rows of a statement. A row that does not fit is a `DecodeError` that names its column and counts its row. A
 * record is decoded from its own `row`.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { queryMany, sql } from 'keyrow/records'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const squares = queryMany(database, t.type({ n: t.number }), sql`select n * n as n from generate_series(1, ${3}::int) as n`)
 * console.log(await squares()) // { _tag: 'Right', right: [ { n: 1 }, { n: 4 }, { n: 9 } ] }
 * await database.close()
 * ```
 */
export const queryMany = <A>(
  handle: Database,
  as: RowsAs<A>,
  statement: Sql,
): TE.TaskEither<Failure, readonly A[]> =>
  pipe(
    run(handle, queryOf(statement), statement),
    TE.chainEitherKW((rows) => decodeAll(decoderOf(handle, as), rows, 0)),
  )

/** The first row of a statement, if it has any. */
export const queryOne = <A>(
  handle: Database,
  as: RowsAs<A>,
  statement: Sql,
): TE.TaskEither<Failure, O.Option<A>> =>
  pipe(
    run(handle, queryOf(statement), statement),
    TE.chainEitherKW(([row]) =>
      row === undefined ? E.right(O.none) : pipe(decoderOf(handle, as)(row, 0), E.map(O.some)),
    ),
  )

const run = (handle: Queryable, query: Query, { values }: Sql): TE.TaskEither<DriverError, readonly Row[]> =>
  // `sql` takes nothing else, and what an untyped caller gives is for the driver to refuse.
  handle.query(query, values as readonly Param[])

const decodeAll = <A>(decode: Decode<A>, rows: readonly Row[], first: number) => {
  const values: A[] = []
  for (const [index, row] of rows.entries()) {
    const value = decode(row, first + index)
    if (E.isLeft(value)) return value
    values.push(value.right)
  }
  return E.right(values)
}

/** How many rows are held at once. */
const BATCH = 100

/** Names of cursors that are open; they are used again, so that there are few statements to prepare. */
const cursors = new Set<number>()

const freeCursor = (): number => {
  let number = 1
  while (cursors.has(number)) number += 1
  cursors.add(number)
  return number
}

/**
 * The rows of a statement one after the other, a hundred in memory at once, for `consume`, which runs in a
 * transaction of its own: it ends when `consume` has, however early, and rolls back when that gives a `Left` or
 * throws, which comes out as itself. A row that does not fit, or a statement that fails, is the last element, as a
 * `Left`. Records belong to the transaction's handle.
 *
 * @example
 * ```ts
 * import * as E from 'fp-ts/lib/Either.js'
 * import * as t from 'io-ts'
 * import { queryStream, sql } from 'keyrow/records'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const numbers = sql`select n from generate_series(1, 1000000) as n`
 * const firstAbove = (least: number) =>
 *   queryStream(database, t.type({ n: t.number }), numbers, (rows) => async (): Promise<E.Either<Error, number>> => {
 *     for await (const row of rows) {
 *       if (E.isLeft(row)) return row
 *       if (row.right.n > least) return E.right(row.right.n)
 *     }
 *     return E.left(new Error('none'))
 *   })
 * console.log(await firstAbove(250)()) // { _tag: 'Right', right: 251 }
 * await database.close()
 * ```
 */
export const queryStream = <A, L, B>(
  handle: Database,
  as: RowsAs<A>,
  statement: Sql,
  consume: (rows: AsyncIterable<E.Either<Failure, A>>, tx: Database) => TE.TaskEither<L, B>,
): TE.TaskEither<L | DriverError, B> =>
  handle.transaction((tx) => async () => {
    const number = freeCursor()
    const stream: Stream<A> = {
      tx,
      statement,
      query: queryOf(statement),
      decode: decoderOf(tx, as),
      cursor: `keyrow_cursor_${String(number)}`,
      open: false,
    }
    try {
      const result = await consume(fetched(stream), tx)()
      if (E.isRight(result) && stream.open) await say(stream, 'close')
      return result
    } finally {
      cursors.delete(number)
    }
  })

interface Stream<A> {
  readonly tx: Database
  readonly statement: Sql
  readonly query: Query
  readonly decode: Decode<A>
  readonly cursor: string
  open: boolean
}

const say = ({ tx, query, cursor }: Stream<unknown>, what: string) =>
  tx.query({ name: `${query.name}.${what.replace(/ .*/, '')}`, text: `${what} ${cursor}` }, [])()

async function* fetched<A>(stream: Stream<A>): AsyncGenerator<E.Either<Failure, A>, void, undefined> {
  const { tx, statement, query, decode, cursor } = stream
  const declare = { name: query.name, text: `declare ${cursor} cursor for ${query.text}` }
  const declared = await run(tx, declare, statement)()
  if (E.isLeft(declared)) return yield declared
  stream.open = true
  for (let first = 0; ; first += BATCH) {
    const rows = await say(stream, `fetch ${String(BATCH)} from`)
    if (E.isLeft(rows)) return yield rows
    for (const [index, row] of rows.right.entries()) {
      const value = decode(row, first + index)
      yield value
      if (E.isLeft(value)) return
    }
    if (rows.right.length < BATCH) return
  }
}
