// Runs hand-written SQL on a `Database`. The definition of a record, or a codec, decodes the rows. A comment in the
// first line (`-- notes.recent`) names the statement in events and logs. Without such a comment, the name is `sql.` and
// the first word of the statement, for example `sql.select`.

import tag, { type Sql } from 'sql-template-tag'
import { DecodeError, type DriverError } from '../core/errors.js'
import { E, O, pipe, TE, type t } from '../core/prelude.cjs'
import type { Database, Param, Query, Queryable, Row } from '../db/database.js'
import type { Column } from './column.js'
import { shapeIn } from './record.js'
import { recordIn } from './save.js'
import { decodeWith, encode, type Rows, reasonsOf } from './table.js'

/**
 * Makes a statement, or a part of a statement. An interpolated value becomes a parameter. A part from another `sql` is
 * inserted as SQL. With every driver, the server reads a parameter like a quoted literal. So `${'{"a": 1}'}::jsonb` is
 * a JSON object, not a JSON string. If the server cannot infer a parameter's type, write `${id}::int8` or use `param`.
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
 * Makes a parameter from a program's value, such as a `Date`, bytes, an array or an object. The codec of `column`
 * encodes the value. Throws an `EncodeError` for a value that does not fit the column.
 *
 * @example
 * ```ts
 * import { array, param, sql, uuid } from 'keyrow/records'
 *
 * const ids = ['2f6d1a52-8ac5-4b7e-9a37-0d1f6c1f0a11']
 * console.log(sql`select title from notes where id = any(${param(array(uuid), ids)})`.text) // select title from notes where id = any($1::text::uuid[])
 * ```
 */
export const param = <A>(column: Column<A>, value: NoInfer<A>): Sql =>
  tag(['', `::text::${column.sql}`], encode(column.sql, column, value))

/** A codec of whole rows, or the definition of a record. If it is a definition, the statement must select its `row`. */
export type RowsAs<A> = Rows<A> | t.Decoder<unknown, A>

type Failure = DriverError | DecodeError

const FIRST_WORD = /^\s*(?:--[ \t]*([\w.:-]+)[ \t]*\r?\n|\W*(\w+))/

const queryOf = ({ text }: Sql): Query => {
  const [, withName, word] = FIRST_WORD.exec(text) ?? []
  return { name: withName ?? `sql.${(word ?? 'statement').toLowerCase()}`, text }
}

/** Decodes a row. `ordinal` is the row's index in the result. */
type Decode<A> = (row: Row, ordinal: number) => E.Either<DecodeError, A>

const decoderOf = <A>(handle: Database, as: RowsAs<A>): Decode<A> => {
  const shape = shapeIn(as)
  // Only a record's definition has a shape. The codecs of the columns check all values, so the cast is safe.
  if (shape !== undefined)
    return (row, ordinal) => recordIn(shape, handle, row, ordinal) as E.Either<DecodeError, A & object>
  const codec = as as t.Decoder<unknown, A>
  return (row, ordinal) => pipe(decodeWith(codec, row), E.mapLeft(misfit(ordinal)))
}

const misfit =
  (ordinal: number) =>
  (errors: t.Errors | string): DecodeError => {
    const path = typeof errors === 'string' ? [] : (errors[0]?.context.slice(1) ?? [])
    // An intersection of codecs adds the index of a codec to the path. The first name in the path is the column.
    const column = path.find(({ key }) => !/^\d+$/.test(key))?.key ?? 'row'
    return new DecodeError(column, reasonsOf(errors), ordinal)
  }

/**
 * Runs a statement and returns all its rows. If a row does not fit the codec or the record, the result is a
 * `DecodeError` with the column and the index of the row. To get records, pass a definition and select its `row`.
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
    TE.chainEitherKW((rows) => decodeAll(decoderOf(handle, as), rows)),
  )

/** Runs a statement and returns its first row, if there is one. */
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
  // The type of `sql` accepts only values of the type `Param`. keyrow's databases reject other values, which an untyped
  // caller may pass.
  handle.query(query, values as readonly Param[])

const decodeAll = <A>(decode: Decode<A>, rows: readonly Row[]) => {
  const values: A[] = []
  for (const [index, row] of rows.entries()) {
    const value = decode(row, index)
    if (E.isLeft(value)) return value
    values.push(value.right)
  }
  return E.right(values)
}

/** The number of rows that a stream fetches at once. The stream has at most this number of rows in memory. */
const BATCH = 100

/**
 * The numbers of the open cursors. The statements of a cursor contain its number. A new cursor gets the lowest unused
 * number, so that few different statements are prepared.
 */
const cursors = new Set<number>()

const freeCursor = (): number => {
  let number = 1
  while (cursors.has(number)) number += 1
  cursors.add(number)
  return number
}

/**
 * Streams the rows of a statement to `consume`. At most a hundred rows are in memory. `consume` runs in the transaction
 * `tx`, which commits if `consume` returns a `Right`. If `consume` returns a `Left` or throws, the transaction is
 * rolled back, and the caller gets the same failure. If the statement fails, or if a row does not fit `as`, the last
 * element of the stream is a `Left`. Records in the stream have the handle `tx`.
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
    const { rows, close } = streamed(tx, decoderOf(tx, as), statement, `keyrow_cursor_${String(number)}`)
    try {
      const result = await consume(rows, tx)()
      if (E.isRight(result)) await close()
      return result
    } finally {
      cursors.delete(number)
    }
  })

/** Returns the rows that a cursor reads, and a function that closes the cursor if it is open. */
const streamed = <A>(tx: Database, decode: Decode<A>, statement: Sql, cursor: string) => {
  const { name, text } = queryOf(statement)
  let open = false
  const send = (verb: string, rest: string) =>
    tx.query({ name: `${name}.${verb}`, text: `${verb} ${rest}${cursor}` }, [])()
  async function* fetched(): AsyncGenerator<E.Either<Failure, A>, void, undefined> {
    const declared = await run(tx, { name, text: `declare ${cursor} cursor for ${text}` }, statement)()
    if (E.isLeft(declared)) return yield declared
    open = true
    for (let first = 0; ; first += BATCH) {
      const rows = await send('fetch', `${String(BATCH)} from `)
      if (E.isLeft(rows)) return yield rows
      for (const [index, row] of rows.right.entries()) {
        const value = decode(row, first + index)
        yield value
        if (E.isLeft(value)) return
      }
      if (rows.right.length < BATCH) return
    }
  }
  return { rows: fetched(), close: async () => open && (await send('close', '')) }
}
