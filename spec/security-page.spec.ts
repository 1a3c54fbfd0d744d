// Checks that each spec that docs/security.md names exists.

import { readdir, readFile } from 'node:fs/promises'
import t from 'tap'

const root = new URL('../', import.meta.url)
const read = (path: string): Promise<string> => readFile(new URL(path, root), 'utf8')

t.test('each spec that the page names is there', async (t) => {
  const rows = (await read('docs/security.md')).matchAll(/^\| (?!---|expectation)(.+) \| .+ \| (.+) \|$/gm)
  const expected = [...rows].map((row) => [row[1] ?? '', row[2]?.replace(/^`(.*)`$/, '$1') ?? ''] as const)
  const files = (await readdir(new URL('spec', root), { recursive: true })).filter((name) =>
    /[.]ts$/.test(name),
  )
  const specs = (await Promise.all(files.map((name) => read(`spec/${name}`)))).join('\n')
  t.ok(expected.length >= 15, `${String(expected.length)} expectations`)
  for (const [expectation, name] of expected)
    t.ok(
      [`t.test('${name}'`, `'${name}',`, `t.test("${name}"`].some((text) => specs.includes(text)),
      expectation,
    )
})
