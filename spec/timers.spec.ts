// Tests that keyrow still works in a test that replaces the timers of Node.js with fake timers.

import { AsyncLocalStorage } from 'node:async_hooks'
import { createServer, type RequestListener } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { mock } from 'node:test'
import express from 'express'
import t, { type Test } from 'tap'
import { cancelAlarm, setAlarm } from '../lib/core/process.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import * as expressDoor from '../lib/http/express.js'
import { sessionListener } from '../lib/http/node.js'
import {
  buildSession,
  closeDatabase,
  loadSession,
  saveSession,
  sessionRef,
  sessionSet,
  sessionStore,
  sessionToken,
  updateCurrentSession,
} from '../lib/promise/index.js'
import { batched } from '../lib/store/batched.js'
import './support/pglite.mjs'
import { listening } from './support/adapters.js'
import { serverDrivers } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'

const database = pgliteDatabase()
const store = batched(sessionStore(database))
await saveSession(sessionSet('n', 0)(buildSession(store)))
t.teardown(() => closeDatabase(database))

const faked = (t: Test): void => {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'setImmediate', 'Date'] })
  t.teardown(() => mock.timers.reset())
}

const ask = async (t: Test, listener: RequestListener): Promise<string> => {
  const { url, close } = await listening(createServer(listener))
  t.teardown(close)
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  return text(socket)
}

const app = express()
  .use(expressDoor.sessionMiddleware({ store }))
  .get('/', async (_req, res) => {
    await updateCurrentSession(sessionSet('n', 1))
    res.send('done')
  })

t.test('sessions are loaded and saved in batches', async (t) => {
  faked(t)
  const saved = await saveSession(sessionSet('n', 1)(buildSession(store)))
  const loaded = await loadSession(store, sessionToken(saved))
  t.equal(loaded === undefined ? undefined : sessionRef('n')(loaded), 1)
})

t.test('a handler that goes on after its answer is answered', async (t) => {
  faked(t)
  const answer = await ask(
    t,
    sessionListener({ store })(async (_req, res) => {
      await updateCurrentSession(sessionSet('n', 1))
      res.end('done')
      await new Promise(() => undefined)
    }),
  )
  t.match(answer, /set-cookie: session=.*done$/is)
})

t.test('Express answers', async (t) => {
  faked(t)
  t.match(await ask(t, app), /set-cookie: session=.*done$/is)
})

t.test('a database is closed after its last statement', async (t) => {
  const { url, stop } = await specDatabaseUrl()
  for (const { name, open } of serverDrivers) {
    const opened = open(url, { timeoutMs: 2_000 })
    await opened.query({ name: 'first', text: 'select 1' }, [])()
    // The drivers themselves need `setImmediate`.
    mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] })
    const slow = opened.query({ name: 'slow', text: 'select pg_sleep(0.2)' }, [])()
    const closed = opened.close()
    t.match([await slow, await closed], [{ _tag: 'Right' }, { _tag: 'Right' }], name)
    mock.timers.reset()
  }
  await stop()
})

t.test(
  'an alarm rings in the context of no request, not of the one that set the earliest alarm',
  async (t) => {
    const requests = new AsyncLocalStorage<string>()
    const seen: (string | undefined)[] = []
    const alarmAfter = (ms: number, request: string): Promise<void> =>
      new Promise((resolve) => {
        requests.run(request, () =>
          setAlarm(ms, () => {
            seen.push(requests.getStore())
            resolve()
          }),
        )
      })
    await Promise.all([alarmAfter(10, 'first'), alarmAfter(11, 'second'), alarmAfter(40, 'third')])
    t.strictSame(seen, [undefined, undefined, undefined])
  },
)

t.test('alarms ring at their time, and an alarm that another one cancels does not ring', async (t) => {
  const rung: string[] = []
  const at = (ms: number, name: string, act = (): void => undefined) =>
    setAlarm(ms, () => {
      rung.push(name)
      act()
    })
  const last = new Promise<void>((resolve) => {
    at(60, 'last', resolve)
  })
  const cancelled = [
    at(20, 'cancelled before'),
    at(21, 'cancelled by another one'),
    at(40, 'cancelled later'),
  ]
  at(20, 'first', () => {
    for (const alarm of cancelled) cancelAlarm(alarm)
    at(0, 'set by another one')
  })
  cancelAlarm(cancelled[0] as ReturnType<typeof setAlarm>)
  cancelAlarm(cancelled[0] as ReturnType<typeof setAlarm>)
  // Both are due when the process looks at the time again.
  for (const until = performance.now() + 30; performance.now() < until; );
  await last
  t.strictSame(rung, ['first', 'set by another one', 'last'])
})
