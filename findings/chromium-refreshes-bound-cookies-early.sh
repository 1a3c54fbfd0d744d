#!/usr/bin/env bash
# Chromium 156, Device Bound Session Credentials: a bound cookie with a short lifetime.
#
# Expected: the browser refreshes the cookie when it has ended, or shortly before.
# Seen: it begins a refresh with each request that it sends in the last two minutes of the cookie. A cookie that lives
# for a minute is refreshed with nearly every page, although it is there and valid. A cookie that lives for ten minutes is
# not refreshed at all by the same visits. It needs Chromium at /usr/bin/chromium, or at $CHROMIUM.
#
#   Max-Age 60: a refresh with each of 5 visits: true
#   Max-Age 600: refreshes 0
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
cat > short.mjs <<'JS'
import { start } from './server.mjs'

const refreshesWith = async (maxAge) => {
  // The challenge is always the same, so that the limit on signatures does not matter.
  const session = await start({ challenge: () => 'c', maxAge })
  for (let count = 0; count < 5; count += 1) {
    await session.visit('/')
    await session.page.waitForTimeout(500)
  }
  const count = session.refreshes.filter((isProof) => isProof).length
  await session.close()
  return count
}
console.log(`Max-Age 60: a refresh with each of 5 visits: ${(await refreshesWith(60)) >= 5}`)
console.log(`Max-Age 600: refreshes ${await refreshesWith(600)}`)
JS
timeout 80 node short.mjs | tee seen
diff seen - <<'SEEN'
Max-Age 60: a refresh with each of 5 visits: true
Max-Age 600: refreshes 0
SEEN
