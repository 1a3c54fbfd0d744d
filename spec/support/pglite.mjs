// Makes PGlite's databases in memory start from data that PGlite made once, for specs that start many: initdb in
// WebAssembly takes 1.5 seconds. Databases in directories are not concerned. Importing this file is enough.

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
  // Other processes read it as soon as it has its name.
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
