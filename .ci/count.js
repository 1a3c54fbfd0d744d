// Prints how many assertions of a run of tap passed and failed, from the summary at its end:
//   node .ci/count.js LOG EXIT_STATUS
// What was skipped or left to do counts as failed, and so does a run that failed in any other way.

import { readFileSync } from 'node:fs'

const [log = '', status = '1'] = process.argv.slice(2)
const summary = /^# \{ (total: \d+.*) \}$/m.exec(readFileSync(log, 'utf8'))?.[1]
if (summary === undefined) throw new Error('the run gave no summary')

const counts = Object.fromEntries(summary.split(', ').map((count) => count.split(': ')))
const passed = Number(counts.pass ?? 0)
const failed = Number(counts.total) - passed
console.log(passed, failed === 0 && status !== '0' ? 1 : failed)
