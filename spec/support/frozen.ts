// Reads texts in git that must not change unnoticed. A spec compares them with generated texts. `UPDATE=1` writes them.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'

const read = (folder: URL): Record<string, string> =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(new URL(name, folder), 'utf8')]))

const write = (folder: URL, texts: ReadonlyMap<string, string>): void => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const [name, text] of texts) writeFileSync(new URL(name, folder), text)
}

/** Returns the files in a folder of `spec/frozen`, by name. With `UPDATE`, writes `made` to the folder first. */
export const frozen = (name: string, made: ReadonlyMap<string, string>): Readonly<Record<string, string>> => {
  const folder = new URL(`../frozen/${name}/`, import.meta.url)
  if (process.env['UPDATE']) write(folder, made)
  return read(folder)
}
