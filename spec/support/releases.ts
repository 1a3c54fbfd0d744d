// Old code that goes on serving while new code upgrades the schema: for each version of the schema the last release that
// worked with it, as it was built (release-N.tar.gz has the JavaScript that a store on postgres.js needs).

import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** Below the repository, where it finds its dependencies. */
const home = fileURLToPath(new URL('../../build/', import.meta.url))

/** Unpacks the release that worked with this version of the schema; gives the address of its modules. */
export const unpackRelease = (version: 1 | 2): string => {
  const name = `release-${String(version)}`
  const archive = fileURLToPath(new URL(`./${name}.tar.gz`, import.meta.url))
  mkdirSync(home, { recursive: true })
  execFileSync('tar', ['-xzf', archive, '-C', home])
  return pathToFileURL(join(home, `${name}/dist/`)).href
}
