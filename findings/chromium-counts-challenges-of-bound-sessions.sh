#!/usr/bin/env bash
# Chromium 156, Device Bound Session Credentials: the limit on refreshes of a session.
#
# Expected: after some refreshes in a short time the browser refreshes no more, whatever the server sends.
# Seen: only signatures of different challenges count. With a new challenge for each refresh, the browser stops within
# ten refreshes, and sends its requests without the cookie and with `Secure-Session-Skipped: quota_exceeded`. With the
# same challenge each time, it refreshes twenty times, and goes on. So a server should keep a challenge for a while. It
# needs Chromium at /usr/bin/chromium, or at $CHROMIUM.
#
#   new challenges: stopped within ten refreshes: true, told why: quota_exceeded
#   the same challenge: refreshes 20, stopped: false
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund playwright-core@1.64.1 selfsigned@5.5.0
cat > server.mjs <<'JS'
// The server's half of Device Bound Session Credentials, without any check.
import { createHash, X509Certificate } from 'node:crypto'
import { createServer } from 'node:https'
import { chromium } from 'playwright-core'
import { generate } from 'selfsigned'

const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }])
const spki = new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' })

/** `challenge` makes the challenge of a refresh, and `maxAge` is the lifetime of the bound cookie in seconds. */
export const start = async ({ challenge, maxAge }) => {
  const refreshes = []
  const skipped = []
  const instructions = JSON.stringify({
    session_identifier: 's',
    refresh_url: '/refresh',
    scope: { include_site: false },
    credentials: [{ type: 'cookie', name: '__Host-bound', attributes: 'Path=/; Secure; HttpOnly' }],
  })
  const server = createServer({ key, cert }, (req, res) => {
    const bound = { 'Set-Cookie': `__Host-bound=1; Max-Age=${maxAge}; Path=/; Secure; HttpOnly` }
    if (req.url === '/register') return res.writeHead(200, bound).end(instructions)
    if (req.url === '/refresh') {
      const isProof = req.headers['secure-session-response'] !== undefined
      refreshes.push(isProof)
      if (isProof) return res.writeHead(200, bound).end(instructions)
      return res.writeHead(403, { 'Secure-Session-Challenge': `"${challenge()}";id="s"` }).end()
    }
    const reason = /^\w+/.exec(req.headers['secure-session-skipped'] ?? '')?.[0]
    if (reason !== undefined) skipped.push(reason)
    const offer = { 'Secure-Session-Registration': '(ES256);path="/register";challenge="first"' }
    res.writeHead(200, req.url === '/in' ? offer : {}).end('page')
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const context = await chromium.launchPersistentContext(`profile-${server.address().port}`, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--enable-features=DeviceBoundSessions,EnableBoundSessionCredentialsSoftwareKeysForManualTesting',
      `--ignore-certificate-errors-spki-list=${createHash('sha256').update(spki).digest('base64')}`,
    ],
  })
  const page = await context.newPage()
  const visit = (path) => page.goto(`https://localhost:${server.address().port}${path}`)
  await visit('/in')
  const isBound = async () => (await context.cookies()).some(({ name }) => name === '__Host-bound')
  while (!(await isBound())) await page.waitForTimeout(50)
  const close = async () => {
    await context.close()
    server.close()
    server.closeAllConnections()
  }
  return { context, page, visit, isBound, refreshes, skipped, close }
}
JS
cat > quota.mjs <<'JS'
import { start } from './server.mjs'

/** Deletes the bound cookie before each of 20 visits. Returns the number of visits for which it was refreshed. */
const visits = async (session) => {
  let count = 0
  for (; count < 20; count += 1) {
    await session.context.clearCookies({ name: '__Host-bound' })
    await session.visit('/')
    if (!(await session.isBound())) break
  }
  return count
}
let number = 0
const fresh = await start({ challenge: () => `c${(number += 1)}`, maxAge: 600 })
const count = await visits(fresh)
console.log(`new challenges: stopped within ten refreshes: ${count < 10}, told why: ${fresh.skipped[0]}`)
await fresh.close()
const same = await start({ challenge: () => 'c', maxAge: 600 })
const all = await visits(same)
console.log(`the same challenge: refreshes ${all}, stopped: ${all < 20}`)
await same.close()
JS
timeout 80 node quota.mjs | tee seen
diff seen - <<'SEEN'
new challenges: stopped within ten refreshes: true, told why: quota_exceeded
the same challenge: refreshes 20, stopped: false
SEEN
