// The last release that worked with version 1 of the schema, as it was built (release-1.tar.gz has its
// JavaScript without the doors): the old code that goes on serving while new code upgrades the schema.

import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const archive = fileURLToPath(new URL('./release-1.tar.gz', import.meta.url))

/** Below the repository, where it finds its dependencies. */
const home = fileURLToPath(new URL('../../build/', import.meta.url))

/** Unpacks it; gives the address of its modules. */
export const unpackRelease1 = (): string => {
  mkdirSync(home, { recursive: true })
  execFileSync('tar', ['-xzf', archive, '-C', home])
  return pathToFileURL(join(home, 'release-1/dist/')).href
}
