// The responses of Express have one hidden class, so that the engine runs what reads them fast. V8 keeps the class of such
// objects in a small cache, where another class may take its place: then the responses of that process have one each. That
// happens in about one process of ten, and without care in all of them; so most of several processes decide.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'

const PROCESSES = 11
const cwd = fileURLToPath(new URL('../..', import.meta.url))

const program = `
import { setFlagsFromString } from 'node:v8'
import { runInThisContext } from 'node:vm'
import express from 'express'
import { sessionMiddleware } from 'keyrow/express'
import { memoryStore } from 'keyrow/memory'
import { sessionUpdate, updateCurrentSession } from 'keyrow/promise'

setFlagsFromString('--allow-natives-syntax')
const haveSameShape = runInThisContext('(a, b) => %HaveSameMap(a, b)')
const responses = []
const app = express()
app.use(sessionMiddleware({ store: memoryStore(), cookie: { secure: false } }))
app.get('/', async (_req, res) => {
  await updateCurrentSession(sessionUpdate('n', (n) => n + 1, 0))
  responses.push(res)
  res.send('done')
})
const server = app.listen(0, '127.0.0.1', async () => {
  // The engine settles on a shape after the first few objects of a class.
  for (let times = 0; times < 12; times += 1)
    if ((await (await fetch('http://127.0.0.1:' + server.address().port)).text()) !== 'done') throw new Error('it failed')
  console.log(haveSameShape(responses[10], responses[11]))
  process.exit()
})
`

t.test('the responses of Express are of one shape to the engine', async (t) => {
  const printed: string[] = []
  for (let index = 0; index < PROCESSES; index += 1) {
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
      cwd,
    })
    printed.push(stdout.trim())
  }
  t.match(printed, Array<RegExp>(PROCESSES).fill(/^(true|false)$/))
  const same = printed.filter((line) => line === 'true').length
  t.ok(same > PROCESSES / 2, `in ${String(same)} of ${String(PROCESSES)} processes`)
})
