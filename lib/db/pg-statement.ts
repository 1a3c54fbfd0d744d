// Sends a statement on a client of node-postgres, or cancels it on the server. keyrow uses node-postgres's interface
// `Submittable` for custom statements. On each connection, keyrow requests the result columns of a prepared statement
// only once. keyrow decodes the rows itself, so the type parsers of the client and of node-postgres have no effect.

import { createHash } from 'node:crypto'
import { connect } from 'node:net'
import { LRUCache } from 'lru-cache'
import { DriverError, type Effect } from '../core/errors.js'
import { clearTimeout, setTimeout } from '../core/process.js'
import type { Param, Query } from './database.js'
import type { Plan } from './sending.js'
import { type Column, paramText, type Wire } from './text-format.js'

/** The members of node-postgres's `Connection` that keyrow uses. */
interface Connection {
  readonly stream: { cork?(): void; uncork?(): void; destroy?(): void; write(message: Uint8Array): unknown }
  parse(message: { readonly name: string; readonly text: string }): void
  bind(message: { readonly statement: string; readonly values: readonly (string | null)[] }): void
  describe(message: { readonly type: 'P' }): void
  execute(): void
  sync(): void
  /** The text of each statement that node-postgres has prepared on the connection, by the statement's name. */
  readonly parsedStatements: Readonly<Record<string, string>>
  prependListener(event: 'readyForQuery', listener: (message: { readonly status?: string }) => void): unknown
}

/** The members of a client of node-postgres that keyrow uses. */
export interface PgClient {
  query(statement: { submit(connection: Connection): unknown }): unknown
  on(event: 'error' | 'end', listener: () => void): unknown
  /** Versions of node-postgres before 8.17 lack this member. */
  getTransactionStatus?(): string | null
}

/** The members of a pool of node-postgres that keyrow uses. */
export interface PgPool {
  connect(
    callback: (
      error: Error | undefined,
      client: PgClient | undefined,
      release: (destroy?: boolean) => void,
    ) => void,
  ): void
  end(): Promise<void>
  on(event: 'error', listener: () => void): unknown
  /** The number of clients in the pool. keyrow rejects a single client, which lacks this member. */
  readonly totalCount: number
  readonly ending?: boolean
  readonly options?: { readonly pipeline?: unknown; readonly stream?: unknown }
}

const observed = new WeakSet<PgPool>()

/** Returns the pool, or throws an error if keyrow cannot use it. */
export const suitable = (pool: PgPool): PgPool => {
  if (typeof pool.totalCount !== 'number')
    throw new TypeError('keyrow needs a pool of node-postgres, not a client: pass a new pg.Pool(…)')
  if (pool.options?.pipeline === true)
    throw new RangeError('a pool with the option pipeline runs no statements of keyrow; leave the option out')
  // Without a listener, the loss of an idle client's connection would end the process. The pool replaces the client.
  if (!observed.has(pool)) pool.on('error', () => undefined)
  observed.add(pool)
  return pool
}

/** What keyrow knows about a client's connection. */
export interface ClientState {
  /** The result columns of prepared statements, by name. */
  readonly columns: Map<string, readonly Column[]>
  /** The time at which the server last reported that it is ready for a statement. */
  answeredAt: number
  /** The last transaction status that the server reported: `I` (no transaction), `T` (open) or `E` (failed). */
  status: string
  /** Whether a check has found that the server is a primary. */
  isChecked: boolean
  /** The client's connection. It is `undefined` until keyrow has sent a statement on the client. */
  connection: Connection | undefined
}

const states = new WeakMap<PgClient, ClientState>()

export const stateOf = (client: PgClient): ClientState => {
  const known = states.get(client)
  if (known !== undefined) return known
  const state: ClientState = {
    columns: new Map(),
    answeredAt: performance.now(),
    status: 'I',
    isChecked: false,
    connection: undefined,
  }
  // node-postgres removes its own listener while a client is in use. Without a listener, a lost connection would end
  // the process. This listener ignores the error, since node-postgres also passes it to the statement.
  client.on('error', () => undefined)
  states.set(client, state)
  return state
}

/** Whether a transaction is open on the client, begun by keyrow or by the program. */
export const isInTransaction = (client: PgClient): boolean =>
  (client.getTransactionStatus?.() ?? stateOf(client).status) !== 'I'

/** Closes the socket of a client at once. An orderly close would wait for the server, which may no longer answer. */
export const closeSocket = (client: PgClient): void => stateOf(client).connection?.stream.destroy?.()

export interface Result {
  readonly columns: readonly Column[]
  readonly rows: readonly (readonly Wire[])[]
  /** The command tag, such as `COMMIT`. */
  readonly command: string
}

/** Receives the outcome of a statement. After an error the result is incomplete. */
export type Settle = (error: Error | undefined, result: Result) => void

const names = new LRUCache<string, string>({ max: 1_000 })

/** Returns a statement's name. All processes use the same name, since a pooler may share connections among them. */
const nameOf = (text: string, generation: number): string => {
  const known = names.get(text) ?? createHash('sha256').update(text).digest('hex').slice(0, 32)
  names.set(text, known)
  return generation === 0 ? `keyrow_${known}` : `keyrow_${known}_${String(generation)}`
}

interface Parts {
  readonly text: string
  /** The name of the prepared statement, or an empty string if the statement is not prepared. */
  readonly name: string
  readonly values: readonly (string | null)[]
  readonly state: ClientState
}

// Returns the messages Bind, Execute and Sync in one buffer. node-postgres writes each message separately, which takes
// half of the CPU time of a small statement. The layout is in PostgreSQL's documentation, under "Message Formats".
const boundMessages = (name: string, values: readonly (string | null)[]): Buffer => {
  const sizes = values.map((value) => (value === null ? -1 : Buffer.byteLength(value)))
  const size = sizes.reduce((sum, size) => sum + 4 + Math.max(0, size), name.length + 12)
  const messages = Buffer.allocUnsafe(1 + size + EXECUTE_AND_SYNC.length)
  let at = messages.write('B')
  at = messages.writeInt32BE(size, at)
  at = messages.writeInt8(0, at) // the unnamed portal
  at += messages.write(name, at, 'latin1')
  at = messages.writeInt8(0, at)
  at = messages.writeInt16BE(0, at) // all parameters are text
  at = messages.writeInt16BE(values.length, at)
  for (const [index, value] of values.entries()) {
    at = messages.writeInt32BE(sizes[index] as number, at)
    if (value !== null) at += messages.write(value, at)
  }
  at = messages.writeInt16BE(0, at) // all result columns are text
  EXECUTE_AND_SYNC.copy(messages, at)
  return messages
}

/** The message Execute for the unnamed portal without a row limit, and the message Sync. */
const EXECUTE_AND_SYNC = Buffer.from('450000000900000000005300000004', 'hex')

class Statement {
  /** node-postgres adds this name and text to `parsedStatements` when the server has prepared the statement. */
  readonly name: string
  readonly text: string
  /** If the pool has a `query_timeout`, node-postgres wraps this function, and calls it when the time is over. */
  callback = (error?: unknown): void => {
    if (error !== undefined) this.#end(queryTimeout(this.#query, error))
  }
  isSent = false
  readonly #query: string
  readonly #parts: Parts
  readonly #settle: Settle
  readonly #rows: Wire[][] = []
  #columns: readonly Column[]
  #command = ''

  constructor(query: string, parts: Parts, settle: Settle) {
    this.#query = query
    this.name = parts.name
    this.text = parts.text
    this.#parts = parts
    this.#settle = settle
    this.#columns = parts.state.columns.get(parts.name) ?? []
  }

  submit(connection: Connection): void {
    const { name, text, values, state } = this.#parts
    this.isSent = true
    observe(connection, state)
    const isParsed = name !== '' && connection.parsedStatements[name] !== undefined
    if (isParsed && state.columns.has(name)) {
      connection.stream.write(boundMessages(name, values))
      return
    }
    connection.stream.cork?.()
    if (!isParsed) connection.parse({ name, text })
    connection.bind({ statement: name, values })
    if (!isParsed || !state.columns.has(name)) connection.describe({ type: 'P' })
    connection.execute()
    connection.sync()
    connection.stream.uncork?.()
  }

  handleRowDescription({ fields }: { readonly fields: readonly Field[] }): void {
    this.#columns = fields.map(({ name, dataTypeID }) => ({ name, type: dataTypeID }))
  }

  handleDataRow({ fields }: { readonly fields: Wire[] }): void {
    this.#rows.push(fields)
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    this.#command = text
  }

  handleReadyForQuery(): void {
    const { name, state } = this.#parts
    if (name !== '') state.columns.set(name, this.#columns)
    this.callback()
    this.#end(undefined)
  }

  handleError(error: unknown): void {
    this.callback()
    const isOfServer = error instanceof Error && hasCode(error)
    this.#end(isOfServer ? error : lost(this.#query, error, this.isSent ? 'unknown' : 'none'))
  }

  handleEmptyQuery(): void {
    this.#command = ''
  }

  handlePortalSuspended(): void {
    this.#command = ''
  }

  // The server ignores a Sync before the end of the copy data, such as the Sync after Execute. So Sync is sent again.
  handleCopyInResponse(connection: { sendCopyFail(message: string): void; sync(): void }): void {
    connection.sendCopyFail('keyrow sends no copy data')
    connection.sync()
  }

  handleCopyData(): void {
    this.#command = ''
  }

  #end(error: Error | undefined): void {
    this.#settle(error, { columns: this.#columns, rows: this.#rows, command: this.#command })
  }
}

interface Field {
  readonly name: string
  readonly dataTypeID: number
}

// node-postgres settles a statement in its own listener for `readyForQuery`. keyrow's listener runs first, so `state`
// is up to date by then.
const observe = (connection: Connection, state: ClientState): void => {
  if (state.connection !== undefined) return
  state.connection = connection
  connection.prependListener('readyForQuery', ({ status }) => {
    state.status = status ?? 'I'
    state.answeredAt = performance.now()
  })
}

/** Sends a statement on a client. `settle` gets the error of the server, a `DriverError`, or the result. */
export const sendOn = (
  client: PgClient,
  state: ClientState,
  { name, text }: Query,
  params: readonly Param[],
  { prepare, generation }: Pick<Plan, 'prepare' | 'generation'>,
  settle: Settle,
): void => {
  const parts = {
    text,
    name: prepare ? nameOf(text, generation) : '',
    values: params.map(paramText),
    state,
  }
  client.query(new Statement(name, parts, settle))
}

/** Sends a statement on a client, and returns a promise of the result. */
export const sentOn = (
  client: PgClient,
  state: ClientState,
  query: Query,
  params: readonly Param[],
  plan: Pick<Plan, 'prepare' | 'generation'>,
): Promise<Result> =>
  new Promise((resolve, reject) => {
    sendOn(client, state, query, params, plan, (error, result) => {
      if (error === undefined) resolve(result)
      else reject(error)
    })
  })

/** Whether the error ended the connection. */
export const isFatal = (error: unknown): boolean => {
  const { severity } = (error ?? {}) as { readonly severity?: unknown }
  return severity === undefined || severity === 'FATAL' || severity === 'PANIC'
}

// Whether an error has a code. node-postgres's own errors, such as `Connection terminated unexpectedly`, have none.
export const hasCode = (error: unknown): boolean =>
  typeof (error as { readonly code?: unknown }).code === 'string'

const lost = (name: string, cause: unknown, effect: Effect): DriverError =>
  new DriverError(`${name}: the connection was lost`, { kind: 'unavailable', retryable: true, effect, cause })

const queryTimeout = (name: string, cause: unknown): DriverError =>
  new DriverError(`${name}: no answer within the query_timeout of the pool`, {
    kind: 'timeout',
    retryable: true,
    cause,
  })

/** Whether the error is a missed deadline or the pool's `query_timeout`, not a server's timeout (with a SQLSTATE). */
export const isDeadline = (error: unknown): boolean =>
  error instanceof DriverError && error.kind === 'timeout' && error.sqlState === undefined

interface Address {
  readonly host?: unknown
  readonly port?: unknown
  readonly processID?: unknown
  readonly secretKey?: unknown
}

const CANCEL_REQUEST = 80_877_102

// Asks the server to cancel the client's statement. Otherwise the statement would continue on the server, for example
// to wait for a lock, and such statements would accumulate. The promise resolves when the server has closed the
// connection of the request, or after `timeoutMs`. The pool's option `stream` may connect to another address, so with
// this option no request is sent.
export const cancelled = (client: PgClient, { options }: PgPool, timeoutMs: number): Promise<void> =>
  new Promise((resolve) => {
    const { host, port, processID, secretKey } = client as Address
    const isKnown = [port, processID, secretKey].every((value) => typeof value === 'number')
    if (!isKnown || typeof host !== 'string' || options?.stream !== undefined) {
      resolve()
      return
    }
    const socket = host.startsWith('/')
      ? connect(`${host}/.s.PGSQL.${String(port)}`)
      : connect(Number(port), host)
    const timer = setTimeout(() => socket.destroy(), timeoutMs)
    const message = Buffer.alloc(16)
    for (const [index, value] of [16, CANCEL_REQUEST, processID, secretKey].entries())
      message.writeInt32BE(Number(value), 4 * index)
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearTimeout(timer)
      resolve()
    })
    socket.write(message)
  })

export const UNPREPARED = { prepare: false, generation: 0 }
