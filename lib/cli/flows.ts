// Implements the commands `flows list`, `flows show` and `flows drop`. Only `flows show --values` reads the values of
// records. The journal of a flow has no secret answers.

import type { DriverError } from '../core/errors.js'
import { A, constVoid, pipe, TE, t } from '../core/prelude.cjs'
import { rowsAs } from '../sql/rows.js'
import { adminStatements } from './admin-sql.js'
import type { CommandOf } from './arguments.js'
import { type Context, onCurrentSchema, type Task } from './open.js'
import { EXIT, iso, joined, pairs, plural, Rejection, table, time } from './terminal.js'

const text = t.union([t.string, t.null])

const FlowRow = t.type({
  id: t.string,
  name: t.string,
  version: t.number,
  step: text,
  answers: t.number,
  size: t.number,
  used: t.number,
  expiration: t.number,
  state: t.string,
})
type FlowRow = t.TypeOf<typeof FlowRow>

const ContinuationRow = t.type({
  id: t.string,
  parent: text,
  depth: t.number,
  step: t.string,
  made: t.number,
  records: t.string,
})
type ContinuationRow = t.TypeOf<typeof ContinuationRow>

const flowsIn = ({ database, schema }: Context, id: string): TE.TaskEither<DriverError, readonly FlowRow[]> =>
  rowsAs(FlowRow)(database, adminStatements(schema).flows, [id])

export const flowsList = (context: Context, { id }: CommandOf<'flows list'>): Task =>
  pipe(
    flowsIn(context, id),
    TE.map((flows) => ({
      data: {
        flows: flows.map((flow) => ({ ...flow, used: iso(flow.used), expiration: iso(flow.expiration) })),
      },
      text: () =>
        flows.length === 0
          ? `The session ${id} has no flows.`
          : table(
              ['ID', 'NAME', 'STATE', 'STEP', 'ANSWERS', 'LAST USED'],
              flows.map(({ id: flow, name, state, step, answers, used }) => [
                ...[flow, name, state, step ?? '', answers, time(used)],
              ]),
            ),
    })),
    onCurrentSchema(context),
  )

const noFlow = (id: string): Rejection => new Rejection(EXIT.notFound, `the session has no flow ${id}`)

export const flowsShow = (context: Context, { id, flow, values }: CommandOf<'flows show'>): Task =>
  pipe(
    flowsIn(context, id),
    TE.map(A.findFirst((found) => found.id === flow)),
    TE.chainW(TE.fromOption(() => noFlow(flow))),
    TE.bindTo('head'),
    TE.bindW('rows', () =>
      rowsAs(ContinuationRow)(context.database, adminStatements(context.schema).continuations, [
        id,
        flow,
        values,
      ]),
    ),
    TE.map(({ head, rows }) => shown(head, rows)),
    onCurrentSchema(context),
  )

const shown = (head: FlowRow, rows: readonly ContinuationRow[]) => ({
  data: {
    ...head,
    used: iso(head.used),
    expiration: iso(head.expiration),
    continuations: rows.map(({ made, records, ...row }) => ({
      ...row,
      made: iso(made),
      records: JSON.parse(records) as unknown,
    })),
  },
  text: () =>
    joined(
      pairs([
        ['id', head.id],
        ['name', `${head.name}, version ${String(head.version)}`],
        ['state', head.state],
        ['last used', time(head.used)],
        ['at the latest', time(head.expiration)],
        ['holds', `${plural(head.answers, 'answer')}, ${plural(head.size, 'character')}`],
      ]),
      rows.length > 0 &&
        `\n${table(
          ['MADE', 'CONTINUATION', 'PARENT', 'WAITS FOR', 'RECORDS'],
          rows.map(({ id, parent, step, made, records }) => [time(made), id, parent ?? '', step, records]),
        )}`,
    ),
})

export const flowsDrop = (context: Context, { id, flow }: CommandOf<'flows drop'>): Task =>
  pipe(
    flowsIn(context, id),
    TE.filterOrElseW(
      A.exists((found: FlowRow) => found.id === flow),
      () => noFlow(flow),
    ),
    TE.chainW(() => context.database.query(adminStatements(context.schema).dropFlow, [id, flow])),
    TE.map(constVoid),
    TE.map(() => ({ data: { dropped: flow }, text: () => `Dropped the flow ${flow}.` })),
    onCurrentSchema(context),
  )
