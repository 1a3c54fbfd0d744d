// All peers by name: stores, and servers of HTTP.

import { connectPgSimple, connectRedis } from './express-session-peers.js'
import { httpNames, httpPeer } from './http-peer.js'
import { ironSession } from './iron-peer.js'
import { baselineKeyrow, keyrow, plainKeyrow, someKeysKeyrow } from './keyrow-peer.js'
import { byHand } from './limit-peer.js'
import type { OpenPeer } from './peer.js'

type Peers = Readonly<Record<string, OpenPeer>>

const stores: Peers = {
  keyrow,
  ...(process.env['BASELINE'] === undefined ? {} : { 'keyrow, baseline': baselineKeyrow }),
  'keyrow, some keys': someKeysKeyrow,
  'keyrow, no layers': plainKeyrow,
  'connect-pg-simple': connectPgSimple,
  'connect-redis': connectRedis,
  'iron-session': ironSession,
  'by hand': byHand,
}

const servers: Peers = Object.fromEntries(httpNames.map((name) => [name, httpPeer(name)]))

/** Those that take part in whole requests over HTTP, or those that are called as stores. */
export const peersFor = ({ http }: { readonly http: boolean }): Peers => (http ? servers : stores)
