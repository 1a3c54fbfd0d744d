// Builds an example that has packages of its own, with the packed package of keyrow, and starts it.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { install, openWorkshop, pack, succeed } from './package-workshop.js'

const repository = fileURLToPath(new URL('../..', import.meta.url))

export interface ExampleProject {
  /** Starts the program on a free port. It ends with the test. */
  readonly start: (env?: Readonly<Record<string, string>>) => Promise<RunningExample>
}

interface RunningExample {
  readonly url: string
  /** The lines that the program has written. */
  readonly log: readonly string[]
}

interface Manifest {
  readonly dependencies: Readonly<Record<string, string>>
}

/** The programs that build and start an example, with their arguments. The paths begin at the example. */
const programs = {
  next: {
    build: ['node_modules/next/dist/bin/next', 'build'],
    start: ['node_modules/next/dist/bin/next', 'start', '--port', '0', '--hostname', '127.0.0.1'],
  },
  nest: { build: ['node_modules/typescript/bin/tsc'], start: ['dist/main.js'] },
} as const

/** Builds an example with further files, in a directory of its own. */
export const buildExample = async (
  t: Test,
  example: keyof typeof programs,
  databaseUrl: string,
  files: Readonly<Record<string, string>> = {},
): Promise<ExampleProject> => {
  const workshop = openWorkshop()
  t.teardown(workshop.close)
  const directory = join(workshop.directory, example)
  cpSync(join(repository, 'examples', example), directory, { recursive: true })
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true })
    writeFileSync(join(directory, path), text)
  }
  const manifest = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Manifest
  const keyrow = `file:${await pack(workshop, repository, [])}`
  const dependencies = { ...manifest.dependencies, keyrow }
  writeFileSync(join(directory, 'package.json'), JSON.stringify({ ...manifest, dependencies }))
  await install(directory)
  const { build, start } = programs[example]
  await succeed(directory, process.execPath, ...build)
  return {
    start: async (own = {}) => {
      const env = {
        PATH: process.env['PATH'],
        DATABASE_URL: databaseUrl,
        NEXT_TELEMETRY_DISABLED: '1',
        PORT: '0',
        ...own,
      }
      const child = spawn(process.execPath, start, { cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'] })
      const ended = once(child, 'exit')
      t.teardown(async () => {
        child.kill()
        await ended
      })
      const log: string[] = []
      createInterface({ input: child.stderr }).on('line', (line) => void log.push(line))
      const url = await new Promise<string>((resolve, reject) => {
        void ended.then(() => reject(new Error(`${example} has ended:\n${log.join('\n')}`)))
        createInterface({ input: child.stdout }).on('line', (line) => {
          log.push(line)
          const found = /(http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1]
          if (found !== undefined) resolve(found)
        })
      })
      return { url, log }
    },
  }
}
