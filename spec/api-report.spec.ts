// Checks that the public types of each entry point equal the reports in spec/frozen/api. After a deliberate change,
// `npm run build && UPDATE=1 npm run spec -- spec/api-report.spec.ts` writes new reports. Commit the new reports with
// the change.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { apiReports } from './support/api-report.js'
import { frozen } from './support/frozen.js'

const { exports } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
  readonly exports: Readonly<Record<string, string>>
}
const reports = apiReports(exports)
const files = frozen('api', reports)

t.test('there is a report for each entry point, and no other', async (t) => {
  t.strictSame(Object.keys(files).sort(), [...reports.keys()].sort())
})

for (const [name, text] of reports)
  t.test(name, async (t) => {
    t.equal(text, files[name])
    t.notMatch(text, /import\(|dist\/|node_modules|\.js\b/, 'no type is named by its file')
    // A program adds the members of `SessionData`.
    const others = text.replace('interface SessionData {} // (no members)', '')
    t.notMatch(others, /\(no members\)/, 'no type is empty, so that anything would fit it')
    t.match(text, /^(?:const|class|function|interface|type) /m, 'something is exported')
  })
