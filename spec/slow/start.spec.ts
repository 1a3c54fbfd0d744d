// The commands of the README on a fresh clone: `npm ci` installs what `npm start` needs and little else, and the shop
// answers.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { openWorkshop, succeed } from '../support/package-workshop.js'

const repository = fileURLToPath(new URL('../..', import.meta.url))
const workshop = openWorkshop()
t.teardown(workshop.close)

t.test('npm ci && npm start', async (t) => {
  const clone = join(workshop.directory, 'clone')
  const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
    cwd: repository,
  })
  for (const path of files.toString().trim().split('\n')) {
    mkdirSync(dirname(join(clone, path)), { recursive: true })
    cpSync(join(repository, path), join(clone, path))
  }
  await succeed(clone, 'npm', 'ci')
  const installed = await succeed(clone, 'npm', 'query', '*')
  const packages = (JSON.parse(installed) as readonly { readonly path: string }[]).map(({ path }) => path)
  t.ok(packages.length < 40, `${String(packages.length)} packages`)
  const shop = spawn('npm', ['start', '--silent'], {
    cwd: clone,
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  const ended = once(shop, 'exit')
  t.teardown(async () => {
    process.kill(-(shop.pid as number))
    await ended
  })
  const lines: string[] = []
  for await (const line of createInterface({ input: shop.stdout })) {
    lines.push(line)
    const url = /(http:\S+)/.exec(line)?.[1]
    if (url === undefined) continue
    t.equal((await fetch(url)).status, 200)
    break
  }
  t.ok(lines.length > 1, 'it says what it is doing before it answers')
})
