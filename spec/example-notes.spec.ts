// Tests the compiled example `notes` on both databases.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { newDatabase } from './support/postgres-server.js'

const program = fileURLToPath(new URL('../build/examples/notes/main.js', import.meta.url))
if (!existsSync(program)) {
  t.fail(`${program} is missing: run "npm run build && npm run build:examples" first`)
  process.exit(1)
}

const tell = async (url: string): Promise<readonly string[]> => {
  const env = { ...process.env, DATABASE_URL: url, NODE_OPTIONS: '' }
  const { stdout } = await promisify(execFile)(process.execPath, [program], { env, timeout: 60_000 })
  return stdout.trimEnd().split('\n')
}

const told = [
  JSON.stringify([
    { title: 'On engines', views: 2, tags: ['machines', 'numbers'] },
    { title: 'On notes', views: 0, tags: ['numbers'] },
  ]),
  'Left notes_note_title_check',
  '2',
]

t.test('on PGlite', async (t) => t.strictSame(await tell(''), told))

t.test('on PostgreSQL', async (t) => {
  const server = await newDatabase()
  t.teardown(() => server.stop())
  t.strictSame(await tell(server.url), told)
})
