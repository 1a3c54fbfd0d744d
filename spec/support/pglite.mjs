// Makes PGlite databases in memory start from saved data, because initdb in WebAssembly takes 1.5 seconds. Databases in
// directories are not changed. An import of this file is enough.

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { PGlite } from '@electric-sql/pglite'

const require = createRequire(import.meta.url)
const { version } = JSON.parse(
  readFileSync(new URL('../package.json', `file://${require.resolve('@electric-sql/pglite')}`), 'utf8'),
)
const folder = new URL('../../build/', import.meta.url)
const file = new URL(`pglite-${version}.tar`, folder)

const { create } = PGlite

const makeData = async () => {
  const database = await create.call(PGlite)
  const data = Buffer.from(await (await database.dumpDataDir('none')).arrayBuffer())
  await database.close()
  mkdirSync(folder, { recursive: true })
  // The file gets its name only when it is complete, because other processes may read it at once.
  const draft = new URL(`pglite-${version}.${process.pid}`, folder)
  writeFileSync(draft, data)
  renameSync(draft, file)
  return data
}

let data
const initialised = () => (data ??= existsSync(file) ? Promise.resolve(readFileSync(file)) : makeData())

PGlite.create = async (...options) =>
  options[0] === undefined && options.length < 2
    ? create.call(PGlite, { loadDataDir: new Blob([await initialised()]) })
    : create.apply(PGlite, options)
