// PGlite in a directory: kept between runs, and one process at a time. Each process is a real one.

import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import type { Queryable } from '../../lib/db/database.js'
import { pgliteDatabase } from '../../lib/db/pglite.js'
import { closeDatabase, loadSession, queryDatabase } from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { left } from '../support/stores.js'

const script = fileURLToPath(new URL('../support/pglite-child.mjs', import.meta.url))

class Child {
  readonly process: ChildProcessByStdio<Writable, Readable, null>
  readonly #lines: Interface

  constructor(directory: string) {
    this.process = spawn(process.execPath, [script, directory], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.process.stdout })
  }

  /** Has it store this key; gives what it prints: the token, or its error. */
  async store(key: string): Promise<string> {
    const line = once(this.#lines, 'line')
    this.process.stdin.write(`${key}\n`)
    return String((await line)[0])
  }

  async end(signal?: NodeJS.Signals): Promise<void> {
    const exit = once(this.process, 'exit')
    if (signal === undefined) this.process.stdin.end()
    else this.process.kill(signal)
    await exit
  }
}

const keysIn = async (directory: string, token: string): Promise<readonly string[]> => {
  const database = pgliteDatabase(directory)
  try {
    const session = await loadSession(sessionStore(database), token)
    return session === undefined ? ['no session'] : [...session.store.keys()].toSorted()
  } finally {
    await closeDatabase(database)
  }
}

t.test('a PGlite directory', async (t) => {
  const root = await mkdtemp(join(tmpdir(), 'keyrow-pglite-'))
  const children: Child[] = []
  const child = (directory: string): Child => {
    const started = new Child(directory)
    children.push(started)
    return started
  }
  t.teardown(async () => {
    for (const started of children) started.process.kill('SIGKILL')
    await rm(root, { recursive: true, force: true })
  })

  await t.test(
    'serves one process: the second gets a clear error, and nothing of the first is lost',
    async (t) => {
      const directory = join(root, 'one')
      const link = join(root, 'link')
      await symlink(directory, link)
      const first = child(directory)
      const token = await first.store('before')
      const second = child(directory)
      t.match(await second.store('intruder'), /^DriverError: open: .* is in use by another process/)
      t.match(await left(pgliteDatabase(link).query({ name: 'one', text: 'select 1' }, [])), {
        _tag: 'DriverError',
        message: /in use/,
      })
      t.equal(await first.store('after'), token)
      await first.end()
      t.match(await second.store('later'), /^[0-9a-f-]{36}\./, 'the second opens once the first is done')
      t.match(await left(pgliteDatabase(directory).query({ name: 'one', text: 'select 1' }, [])), {
        message: /in use/,
      })
      await second.end()
      t.strictSame(await keysIn(directory, token), ['after', 'before'])
    },
  )

  await t.test('is free again at once when its process was killed, with all that was saved', async (t) => {
    const directory = join(root, 'killed')
    const first = child(directory)
    await first.store('one')
    const token = await first.store('two')
    await first.end('SIGKILL')
    t.strictSame(await keysIn(directory, token), ['one', 'two'])
  })

  await t.test('is refused twice in one process too, and where it cannot be made', async (t) => {
    const directory = join(root, 'twice')
    const database = pgliteDatabase(directory)
    t.strictSame(await queryDatabase(database, { name: 'one', text: 'select 1 as n' }, []), [{ n: 1 }])
    t.match(await left(pgliteDatabase(directory).query({ name: 'one', text: 'select 1' }, [])), {
      _tag: 'DriverError',
      message: /in use/,
    })
    await closeDatabase(database)
    for (const address of ['memory://', 'idb://a', `file://${directory}`, 'FILE:x'])
      t.throws(() => pgliteDatabase(address), RangeError)
    await writeFile(join(root, 'file'), '')
    t.match(await left(pgliteDatabase(join(root, 'file')).query({ name: 'one', text: 'select 1' }, [])), {
      _tag: 'DriverError',
    })
  })
})

t.test(
  'a transaction that waits for its turn waits with a bound; inside of another it does not wait at all',
  async (t) => {
    const database = pgliteDatabase(undefined, { timeoutMs: 300 })
    t.teardown(() => closeDatabase(database))
    await queryDatabase(database, { name: 'one', text: 'select 1' }, [])
    const one = (tx: Queryable) => tx.query({ name: 'one', text: 'select 1 as n' }, [])
    let end = (): void => undefined
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    const holding = database.transaction((tx) =>
      pipe(
        TE.fromTask(database.transaction(one)),
        TE.bindTo('inner'),
        TE.chainFirstTaskK(() => () => ended),
        TE.bindW('outer', () => one(tx)),
      ),
    )()
    t.match(await database.transaction(one)(), { _tag: 'Left', left: { message: /no turn within 300 ms/ } })
    end()
    t.match(await holding, {
      _tag: 'Right',
      right: { inner: { _tag: 'Left', left: { kind: 'outerHandle' } }, outer: [{ n: 1 }] },
    })
    t.match(await database.transaction(one)(), { _tag: 'Right', right: [{ n: 1 }] })
  },
)
