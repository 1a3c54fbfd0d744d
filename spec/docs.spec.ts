// Compiles and runs every code block in README and docs, and every example in a docstring. Each program compiles as
// strict TypeScript against the built package. It ends, and prints the documented output. Programs without a server
// share two processes. In slow/docs.spec.ts each program has its own process.

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { isLong } from './support/at-length.js'
import { type CodeBlock, codeBlocks } from './support/code-blocks.js'
import { newDatabase } from './support/postgres-server.js'
import { runsIn } from './support/runs.js'

const run = promisify(execFile)
const root = new URL('../', import.meta.url).pathname
// The folder is inside the project, so that imports of `keyrow` and its peers work.
const folder = join(root, 'build', 'docs')
const out = join(folder, 'out')
const blocks = await codeBlocks()

await rm(folder, { recursive: true, force: true })
await mkdir(folder, { recursive: true })
const nameOf = (block: CodeBlock): string => block.place.replaceAll(/[^a-z0-9]+/gi, '-')
const config = {
  extends: '../../tsconfig.json',
  compilerOptions: { rootDir: '.', outDir: 'out', noEmit: false, noPropertyAccessFromIndexSignature: false },
  include: ['*.ts'],
}
await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(config))
for (const block of blocks) await writeFile(join(folder, `${nameOf(block)}.ts`), block.code)

await t.test('they compile', async (t) => {
  const compiled = await run('npx', ['tsc', '-p', folder], { cwd: root }).catch(
    (error: unknown) => error as { stdout: string },
  )
  t.equal(compiled.stdout, '')
  t.ok(blocks.length > 20, `${String(blocks.length)} blocks`)
})

t.test(
  'the excerpts of the page on Next.js are in its example, which slow/next.spec.ts builds',
  async (t) => {
    const page = await readFile(join(root, 'docs', 'next.md'), 'utf8')
    const excerpts = [...page.matchAll(/^```tsx\n\/\/ (\S+)\n([\s\S]*?)^```$/gm)]
    for (const [, path = '', code = ''] of excerpts)
      t.ok((await readFile(join(root, 'examples', 'next', path), 'utf8')).includes(code), path)
    t.ok(excerpts.length > 3)
  },
)

// The examples use the default schema, so they need a new database.
const server = await newDatabase()
t.teardown(() => server.stop())
const env = { ...process.env, DATABASE_URL: server.url, NODE_OPTIONS: '' }

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Runs a server, and visits it twice with the same cookies. */
const serve = async (block: CodeBlock): Promise<readonly string[]> => {
  const port = await freePort()
  const child = spawn(process.execPath, [`${nameOf(block)}.js`], {
    cwd: out,
    env: { ...env, PORT: String(port) },
    stdio: 'inherit',
  })
  try {
    const first = await visit(`http://127.0.0.1:${String(port)}/`, {})
    const cookie = first.headers.getSetCookie()[0]?.split(';')[0] ?? ''
    // express-session sends the head of a response before it saves the session.
    const text = await first.text()
    const second = await visit(`http://127.0.0.1:${String(port)}/`, { cookie })
    return [text, await second.text()]
  } finally {
    child.kill()
    await once(child, 'exit')
  }
}

/** Repeats the request until the server listens. */
const visit = async (address: string, headers: Record<string, string>): Promise<Response> => {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const response = await fetch(address, { headers }).catch(() => undefined)
    if (response !== undefined) return response
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('it does not listen')
}

const runShared = runsIn(2, './pglite.mjs')

/** A listener for events would also print the events of later programs in the same process. */
const listens = ({ code }: CodeBlock): boolean => /onSessionEvent|diagnostics_channel/.test(code)

const printed = (block: CodeBlock): Promise<{ readonly stdout: string }> => {
  const program = join(out, `${nameOf(block)}.js`)
  return isLong || listens(block)
    ? run(process.execPath, [program], { cwd: out, env, timeout: 60_000 })
    : runShared({ program, env: { DATABASE_URL: server.url } })
}

t.jobs = 2
for (const block of blocks)
  t.test(block.place, { buffered: true }, async (t) => {
    if (block.serves) {
      // A server without a count of visits has a spec of its own.
      t.match(await serve(block), block.code.includes('visit') ? [/1/, /2/] : [/./, /./])
      return
    }
    const { stdout } = await printed(block)
    if (block.prints.length > 0) t.strictSame(stdout.trimEnd().split('\n'), block.prints)
  })
