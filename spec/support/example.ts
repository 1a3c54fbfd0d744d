// Runs an example in its own process, on a free port.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

// The program's input is a pipe from this process. When this process ends in any way, the program ends too.
const untilOrphaned = 'data:text/javascript,process.stdin.resume().once("end",()=>process.exit(9)).unref()'

/** Starts a program on a free port. The program ends with the test. Returns the program's address, once it listens. */
export const startProgram = async (
  t: Test,
  name: string,
  code: string,
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<string> => {
  const folder = new URL('../../build/programs/', import.meta.url)
  const program = fileURLToPath(new URL(`${name}.mjs`, folder))
  await mkdir(folder, { recursive: true })
  await writeFile(program, `${code}\nprocess.stdout.write('started\\n')\n`)
  const port = await freePort()
  const child = spawn(process.execPath, ['--import', untilOrphaned, program], {
    env: { PATH: process.env['PATH'] ?? '', PORT: String(port), DATABASE_URL: databaseUrl, ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill()
    await ended
  })
  await once(child.stdout, 'data')
  return `http://127.0.0.1:${String(port)}`
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const closed = once(server, 'close')
  server.close()
  await closed
  return port
}

/** Starts an example, which ends with the test. Returns the example's address, once it listens. */
export const startExample = async (t: Test, name: string, databaseUrl: string): Promise<string> => {
  const program = fileURLToPath(new URL(`../../build/examples/${name}.js`, import.meta.url))
  const child = spawn(process.execPath, ['--import', untilOrphaned, program], {
    env: { PATH: process.env['PATH'] ?? '', PORT: '0', DATABASE_URL: databaseUrl },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill()
    await ended
  })
  for await (const line of createInterface({ input: child.stdout })) {
    const port = /(?:port: |127\.0\.0\.1:)(\d+)/.exec(line)?.[1]
    if (port !== undefined) return `http://127.0.0.1:${port}`
  }
  throw new Error(`${name} ended before it listened`)
}
