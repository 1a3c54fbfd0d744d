// The process of one server of HTTP: says on which port it listens, and ends when nobody is connected to it any more.
//   http-server.ts NAME SERVERS

import { apps } from './http-apps.js'
import type { HttpName } from './http-peer.js'
import type { Servers } from './peer.js'

const [name = '', servers = '{}'] = process.argv.slice(2)
// Its databases end with it.
process.on('disconnect', () => process.exit())

try {
  process.send?.({ port: await apps[name as HttpName](JSON.parse(servers) as Servers) })
} catch (error) {
  process.send?.({ failure: error instanceof Error ? error.message : String(error) })
}
