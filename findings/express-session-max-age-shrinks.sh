#!/usr/bin/env bash
# express-session 1.19.0, a session with `cookie.maxAge` whose requests are milliseconds long.
#
# Expected: `cookie.originalMaxAge` is the configured age for ever. Each request moves `expires` to now plus that age.
# Seen: it shrinks with use. A request sets `maxAge` to `originalMaxAge`; that sets `expires` from the clock; and the setter of
# `expires` sets `originalMaxAge` anew, to `expires` minus the clock at that moment. If a millisecond passes between the two
# readings of the clock, the session's age is a millisecond shorter, and is stored so with the session. On a busy server
# single steps of 7 ms were seen. The age of a session that lives long drifts down, and a store that compares what it gets
# with what it has sees a change in a request that changed nothing.
#
#   after 0 requests: 599998, after 50 requests: 599948
#
# The clock here advances by a millisecond with each reading, so that each request shows the worst case of a step of one.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf '{ "private": true }' > package.json
npm install --silent --no-audit --no-fund express-session@1.19.0
cat > shrinks.js <<'JS'
const session = require('express-session')
let now = 1_800_000_000_000
Date.now = () => (now += 1)
const store = new session.MemoryStore()
const middleware = session({ secret: 'a secret', resave: false, saveUninitialized: true, rolling: true, store, cookie: { maxAge: 600_000 } })
const { IncomingMessage, ServerResponse } = require('node:http')
let cookie
const request = () =>
  new Promise((resolve) => {
    const req = new IncomingMessage(null)
    Object.assign(req, { url: '/', method: 'GET', headers: cookie === undefined ? {} : { cookie } })
    const res = new ServerResponse(req)
    middleware(req, res, () => {
      res.end()
      cookie = String(res.getHeader('set-cookie')).split(';')[0]
      setImmediate(() => setImmediate(resolve))
    })
  })
const stored = () => JSON.parse(Object.values(store.sessions)[0]).cookie.originalMaxAge
const main = async () => {
  await request()
  const first = stored()
  for (let times = 0; times < 50; times += 1) await request()
  console.log(`after 0 requests: ${first}, after 50 requests: ${stored()}`)
  if (Object.keys(store.sessions).length !== 1 || !(stored() <= first - 50)) process.exit(1)
}
main()
JS
node shrinks.js
