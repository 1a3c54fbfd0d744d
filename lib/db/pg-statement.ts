// Sends one statement on a client of node-postgres, through the interface for statements of other libraries
// ("submittable"). keyrow requests the description of a prepared statement's result only once for each connection.
// keyrow decodes the rows itself, so the type parsers of the client and of node-postgres have no effect.

import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { DriverError, withEffect } from '../core/errors.js'
import type { Param, Query } from './database.js'
import { driverError } from './deadline.js'
import type { Plan } from './sending.js'
import { type Column, paramText, type Wire } from './text-format.js'

/** The part of node-postgres's protocol connection that keyrow uses. */
interface Connection {
  readonly stream: { cork?(): void; uncork?(): void; write(message: Uint8Array): unknown }
  parse(message: { readonly name: string; readonly text: string }): void
  bind(message: { readonly statement: string; readonly values: readonly (string | null)[] }): void
  describe(message: { readonly type: 'P' }): void
  execute(): void
  sync(): void
  /** The texts of the statements that the connection has prepared, by name. node-postgres keeps this record. */
  readonly parsedStatements: Readonly<Record<string, string>>
  prependListener(event: 'readyForQuery', listener: (message: { readonly status?: string }) => void): unknown
}

/** The members of a client of node-postgres that keyrow uses. */
export interface PgClient {
  query(statement: { submit(connection: Connection): unknown }): unknown
  on(event: 'error', listener: () => void): unknown
}

/** What keyrow knows of a connection. */
export interface ClientState {
  /** The result columns of prepared statements, by name. */
  readonly columns: Map<string, readonly Column[]>
  /** The time at which the server last reported that it is ready for a statement. */
  answeredAt: number
  /** The server's last transaction status: `I` outside of transactions, `T` in one, `E` in a failed one. */
  status: string
  /** Whether a check has found that the server is a primary. */
  isChecked: boolean
  isObserved: boolean
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
    isObserved: false,
  }
  // node-postgres removes its own listener while a client is in use. Without a listener, a lost connection would end
  // the process. The statement gets the error too.
  client.on('error', () => undefined)
  states.set(client, state)
  return state
}

export interface Result {
  readonly columns: readonly Column[]
  readonly rows: readonly (readonly Wire[])[]
  /** The command tag, such as `COMMIT`. */
  readonly command: string
}

const names = new LRUCache<string, string>({ max: 1_000 })

/** Returns the name of a prepared statement. Processes that share a connection use the same name for the same text. */
const nameOf = (text: string, generation: number): string => {
  const known = names.get(text) ?? createHash('sha256').update(text).digest('hex').slice(0, 32)
  names.set(text, known)
  return generation === 0 ? `keyrow_${known}` : `keyrow_${known}_${String(generation)}`
}

interface Parts {
  readonly text: string
  /** The name of the prepared statement, or an empty text for an unprepared one. */
  readonly name: string
  readonly values: readonly (string | null)[]
  readonly state: ClientState
}

// The message Bind of a known statement, followed by Execute and Sync, as one write to the socket. node-postgres writes
// each message separately, which costs half of the process's time for a small statement. The layout is in PostgreSQL's
// documentation of the protocol, "Message Formats".
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

/** Execute of the unnamed portal without a limit of rows, and Sync. */
const EXECUTE_AND_SYNC = Buffer.from('450000000900000000005300000004', 'hex')

class Statement {
  /** node-postgres copies these two members to `parsedStatements` when the server has prepared the statement. */
  readonly name: string
  readonly text: string
  readonly #parts: Parts
  readonly #settle: (error: unknown, result: Result) => void
  readonly #rows: Wire[][] = []
  #columns: readonly Column[]
  #command = ''

  constructor(parts: Parts, settle: (error: unknown, result: Result) => void) {
    this.name = parts.name
    this.text = parts.text
    this.#parts = parts
    this.#settle = settle
    this.#columns = parts.state.columns.get(parts.name) ?? []
  }

  submit(connection: Connection): void {
    const { name, text, values, state } = this.#parts
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
    this.#end(undefined)
  }

  handleError(error: unknown): void {
    this.#end(error)
  }

  handleEmptyQuery(): void {
    this.#command = ''
  }

  handlePortalSuspended(): void {
    this.#command = ''
  }

  handleCopyInResponse(connection: { sendCopyFail(message: string): void }): void {
    connection.sendCopyFail('keyrow sends no copy data')
  }

  handleCopyData(): void {
    this.#command = ''
  }

  #end(error: unknown): void {
    this.#settle(error, { columns: this.#columns, rows: this.#rows, command: this.#command })
  }
}

interface Field {
  readonly name: string
  readonly dataTypeID: number
}

// node-postgres settles a statement in its own listener for `readyForQuery`. keyrow's listener runs before that one, so
// `state` is up to date when the statement is settled.
const observe = (connection: Connection, state: ClientState): void => {
  if (state.isObserved) return
  state.isObserved = true
  connection.prependListener('readyForQuery', ({ status }) => {
    state.status = status ?? 'I'
    state.answeredAt = performance.now()
  })
}

/** Sends a statement on a client. The promise rejects with the error of the server, or with a `DriverError`. */
export const sendOn = (
  client: PgClient,
  state: ClientState,
  { name, text }: Query,
  params: readonly Param[],
  { prepare, generation }: Pick<Plan, 'prepare' | 'generation'>,
): Promise<Result> =>
  new Promise((resolve, reject) => {
    const parts = {
      text,
      name: prepare ? nameOf(text, generation) : '',
      values: params.map(paramText),
      state,
    }
    client.query(
      new Statement(parts, (error, result) => {
        if (error === undefined) resolve(result)
        else reject(error instanceof Error && hasCode(error) ? error : lost(name, error))
      }),
    )
  })

/** Whether the error ended the connection. */
export const isFatal = (error: unknown): boolean => {
  const { severity } = (error ?? {}) as { readonly severity?: unknown }
  return severity === undefined || severity === 'FATAL' || severity === 'PANIC'
}

// The errors of node-postgres itself have only a message, such as `Connection terminated unexpectedly`.
const hasCode = (error: unknown): boolean => typeof (error as { readonly code?: unknown }).code === 'string'

const lost = (name: string, cause: unknown): DriverError =>
  new DriverError(`${name}: the connection was lost`, { kind: 'unavailable', retryable: true, cause })

/** Returns the error of a pool that provided no client. Nothing was sent. */
export const unconnected = (cause: unknown, isEnding: boolean): DriverError => {
  const error = isEnding || hasCode(cause) ? driverError('connect', cause) : lost('connect', cause)
  return isEnding
    ? new DriverError(error.message, { kind: 'unavailable', retryable: false, effect: 'none', cause })
    : withEffect(error, 'none')
}
