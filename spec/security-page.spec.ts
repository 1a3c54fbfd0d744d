// Checks that each spec that docs/security.md names exists.

import { readdir, readFile } from 'node:fs/promises'
import t from 'tap'

const root = new URL('../', import.meta.url)
const read = (path: string): Promise<string> => readFile(new URL(path, root), 'utf8')

t.test('each spec that the page names is there', async (t) => {
  const rows = (await read('docs/security.md')).matchAll(/^\| (?!---|expectation)(.+) \| .+ \| (.+) \|$/gm)
  const expected = [...rows].map((row) => [row[1] ?? '', row[2]?.replace(/^`(.*)`$/, '$1') ?? ''] as const)
  const filesIn = async (folder: string): Promise<readonly string[]> =>
    (await readdir(new URL(folder, root), { recursive: true }))
      .filter((name) => /[.]ts$/.test(name))
      .map((name) => `${folder}/${name}`)
  // The laws are in lib/testing, since programs run them on their own stores.
  const files = [...(await filesIn('spec')), ...(await filesIn('lib/testing'))]
  const specs = (await Promise.all(files.map(read))).join('\n')
  t.ok(expected.length >= 15, `${String(expected.length)} expectations`)
  for (const [expectation, name] of expected)
    t.ok(
      [`t.test('${name}'`, `'${name}',`, `'${name}': `, `t.test("${name}"`].some((text) =>
        specs.includes(text),
      ),
      expectation,
    )
})
