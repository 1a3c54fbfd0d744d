// Unpacks old releases, which serve requests while new code upgrades the schema. Each version of the schema has its
// last release. release-N.tar.gz has the built JavaScript of a store on postgres.js.

import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** The folder is inside the repository, so that the release finds its dependencies. */
const home = fileURLToPath(new URL('../../build/', import.meta.url))

/** Unpacks the release for this version of the schema. Returns the address of its modules. */
export const unpackRelease = (version: 1 | 2 | 3 | 4): string => {
  const name = `release-${String(version)}`
  const archive = fileURLToPath(new URL(`./${name}.tar.gz`, import.meta.url))
  mkdirSync(home, { recursive: true })
  execFileSync('tar', ['-xzf', archive, '-C', home])
  return pathToFileURL(join(home, `${name}/dist/`)).href
}
