// The process of one HTTP server. It sends its port to the parent process, and ends when the parent disconnects.
// Usage: http-server.ts NAME SERVERS

import { apps } from './http-apps.js'
import type { HttpName } from './http-peer.js'
import type { Servers } from './peer.js'

const [name = '', servers = '{}'] = process.argv.slice(2)
// The end of the process also closes its database connections.
process.on('disconnect', () => process.exit())

try {
  process.send?.({ port: await apps[name as HttpName](JSON.parse(servers) as Servers) })
} catch (error) {
  process.send?.({ failure: error instanceof Error ? error.message : String(error) })
}
