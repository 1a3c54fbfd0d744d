// All peers by name. A peer is a store, or an HTTP server.

import { connectPgSimple, connectRedis } from './express-session-peers.js'
import { httpNames, httpPeer } from './http-peer.js'
import { ironSession } from './iron-peer.js'
import {
  baselineKeyrow,
  keyrow,
  lateKeyrow,
  pgKeyrow,
  plainKeyrow,
  relaxedKeyrow,
  someKeysKeyrow,
} from './keyrow-peer.js'
import { byHand } from './limit-peer.js'
import type { OpenPeer } from './peer.js'

type Peers = Readonly<Record<string, OpenPeer>>

const stores: Peers = {
  keyrow,
  'keyrow, node-postgres': pgKeyrow,
  'keyrow, node-postgres, relaxed': relaxedKeyrow,
  'keyrow, node-postgres, write-behind': lateKeyrow,
  ...(process.env['BASELINE'] === undefined ? {} : { 'keyrow, baseline': baselineKeyrow }),
  'keyrow, some keys': someKeysKeyrow,
  'keyrow, no layers': plainKeyrow,
  'connect-pg-simple': connectPgSimple,
  'connect-redis': connectRedis,
  'iron-session': ironSession,
  'by hand': byHand,
}

const servers: Peers = Object.fromEntries(httpNames.map((name) => [name, httpPeer(name)]))

/** Returns the peers of a case: the HTTP servers for requests over HTTP, and otherwise the stores. */
export const peersFor = ({ http }: { readonly http: boolean }): Peers => (http ? servers : stores)
