// Builds the example for Next.js with the packed package in a directory of its own, and starts it.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { install, openWorkshop, pack, succeed } from './package-workshop.js'

const repository = fileURLToPath(new URL('../..', import.meta.url))

export interface NextApp {
  readonly url: string
  /** The lines that the program has written. */
  readonly log: readonly string[]
}

interface Manifest {
  readonly dependencies: Readonly<Record<string, string>>
}

const bin = (directory: string): string => join(directory, 'node_modules', 'next', 'dist', 'bin', 'next')

/** Builds the example with further files, and starts it on a free port. It ends with the test. */
export const startNextApp = async (
  t: Test,
  databaseUrl: string,
  files: Readonly<Record<string, string>> = {},
): Promise<NextApp> => {
  const workshop = openWorkshop()
  const directory = join(workshop.directory, 'shop')
  cpSync(join(repository, 'examples', 'next'), directory, { recursive: true })
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true })
    writeFileSync(join(directory, path), text)
  }
  const manifest = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Manifest
  const keyrow = `file:${await pack(workshop, repository, [])}`
  const dependencies = { ...manifest.dependencies, keyrow }
  writeFileSync(join(directory, 'package.json'), JSON.stringify({ ...manifest, dependencies }))
  await install(directory)
  await succeed(directory, process.execPath, bin(directory), 'build')
  const env = { PATH: process.env['PATH'], DATABASE_URL: databaseUrl, NEXT_TELEMETRY_DISABLED: '1' }
  const child = spawn(process.execPath, [bin(directory), 'start', '--port', '0', '--hostname', '127.0.0.1'], {
    cwd: directory,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill()
    await ended
    workshop.close()
  })
  const log: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => void log.push(line))
  const url = await new Promise<string>((resolve, reject) => {
    void ended.then(() => reject(new Error(`next start has ended:\n${log.join('\n')}`)))
    createInterface({ input: child.stdout }).on('line', (line) => {
      log.push(line)
      const found = /(http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1]
      if (found !== undefined) resolve(found)
    })
  })
  return { url, log }
}
