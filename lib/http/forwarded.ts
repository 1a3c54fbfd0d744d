// What the proxies in front of a server say of a request: in `X-Forwarded-For`, `-Proto` and `-Host`, or in
// `Forwarded` (RFC 7239). Each proxy adds what it saw to the end, so only what the trusted ones added counts.
import { isIPv4, isIPv6 } from 'node:net'
import ipaddr from 'ipaddr.js'

/**
 * Which proxies are trusted: none; one; as many as the number says; or those whose address is in one of the
 * networks (`10.0.0.0/8`, `fd00::/8`, a single address, `loopback`, `linklocal`, `uniquelocal`).
 */
export type TrustProxy = boolean | number | readonly string[]

/** A header of a request by its name in lower case. */
type ReadHeader = (name: string) => string | undefined

/** What the trusted proxies say of the client and of its request; empty where none is trusted. */
export interface Forwarded {
  /** The client's address, without a port. */
  readonly address?: string | undefined
  readonly proto?: string | undefined
  /** The host that the client asked for, with its port if it named one. */
  readonly host?: string | undefined
}

/** Reads what the trusted proxies say. `peer` is the address that the connection itself comes from. */
export type ReadForwarded = (header: ReadHeader, peer: string | undefined) => Forwarded

type Range = ReturnType<typeof ipaddr.parseCIDR>

const NAMED: Readonly<Record<string, readonly string[]>> = {
  loopback: ['127.0.0.1/8', '::1/128'],
  linklocal: ['169.254.0.0/16', 'fe80::/10'],
  uniquelocal: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
}

const readers = new WeakMap<readonly string[], ReadForwarded>()

/**
 * Throws a `RangeError` for a number that is not a whole one from 0 on, and a `TypeError` for what is no address
 * and no network.
 */
export const forwardedBy = (trustProxy: TrustProxy = false): ReadForwarded => {
  if (typeof trustProxy !== 'object') return byHops(Number(trustProxy))
  const known = readers.get(trustProxy)
  if (known !== undefined) return known
  const ranges = trustProxy.flatMap((network) => NAMED[network] ?? [network]).map(rangeOf)
  const reader = byNetworks((address) => address !== undefined && ranges.some(holds(address)))
  readers.set(trustProxy, reader)
  return reader
}

const byHops = (hops: number): ReadForwarded => {
  if (!(Number.isInteger(hops) && hops >= 0))
    throw new RangeError(`trustProxy is ${String(hops)}; a number of proxies is a whole number from 0 on`)
  if (hops === 0) return () => ({})
  // Fewer than that may have been on the way: a request from inside, say.
  return (header) => said(header, (addresses) => Math.max(0, addresses.length - hops))
}

const byNetworks =
  (isTrusted: (address: string | undefined) => boolean): ReadForwarded =>
  (header, peer) =>
    isTrusted(addressOf(peer))
      ? said(header, (addresses) =>
          Math.max(
            0,
            addresses.findLastIndex((address) => !isTrusted(address)),
          ),
        )
      : {}

/**
 * `Forwarded` counts only where no header of the other kind is there: a proxy that sets those passes on a
 * `Forwarded` that the client made up.
 */
const said = (
  header: ReadHeader,
  clientAmong: (addresses: readonly (string | undefined)[]) => number,
): Forwarded => {
  const [chain, proto, host] = ['for', 'proto', 'host'].map((what) => listed(header(`x-forwarded-${what}`)))
  if (chain !== undefined || proto !== undefined || host !== undefined) {
    const addresses = (chain ?? []).map(addressOf)
    return { address: addresses[clientAmong(addresses)], proto: proto?.[0]?.toLowerCase(), host: host?.[0] }
  }
  const hops = elements(header('forwarded') ?? '')
  const { by, ...hop } = hops[clientAmong(hops.map(({ by }) => by))] ?? {}
  return { address: by, ...hop }
}

const listed = (header: string | undefined): readonly string[] | undefined =>
  header?.split(',').map((item) => item.trim())

/** One element for each proxy, the first one's first; `by` is whom it got the request from. */
const elements = (header: string): readonly (Omit<Forwarded, 'address'> & { readonly by?: string })[] =>
  splitOutside(header, ',').map((element) => {
    const pairs = splitOutside(element, ';').map((pair) => {
      const at = pair.indexOf('=')
      return [pair.slice(0, at).trim().toLowerCase(), unquoted(pair.slice(at + 1).trim())] as const
    })
    const { for: from, proto, host } = Object.fromEntries(pairs) as Readonly<Record<string, string>>
    const by = addressOf(from)
    return { ...(by === undefined ? {} : { by }), proto: proto?.toLowerCase(), host }
  })

/** Splits at what is not inside of a quoted string. */
const splitOutside = (text: string, separator: ',' | ';'): readonly string[] =>
  text.match(separator === ',' ? /(?:"(?:[^"\\]|\\.)*"|[^,"]|")+/g : /(?:"(?:[^"\\]|\\.)*"|[^;"]|")+/g) ?? []

const unquoted = (text: string): string =>
  text.startsWith('"') ? text.slice(1, -1).replaceAll(/\\(.)/g, '$1') : text

/**
 * An address in its usual form: without brackets and port, an IPv4 address that is written as an IPv6 one as IPv4. A
 * short label that a proxy has put in its place stays (`_hidden`); `unknown` and all else is none.
 */
export const addressOf = (text: string | undefined): string | undefined => {
  if (text === undefined) return undefined
  const [, bracketed, plain = text] = /^\[([^\]]*)\](?::\w+)?$|^([^:]*):\w+$/.exec(text) ?? []
  const address = bracketed ?? plain
  if (isIPv4(address) || isIPv6(address)) return ipaddr.process(address).toString()
  return /^_[\w.-]{1,63}$/.test(address) ? address : undefined
}

/** The address itself, or of an IPv6 address the network that one client has (its first 64 bits). */
export const networkOf = (address: string): string => {
  const known = addressOf(address) ?? address
  if (!isIPv6(known)) return known
  const { parts } = ipaddr.parse(known) as InstanceType<typeof ipaddr.IPv6>
  return `${parts
    .slice(0, 4)
    .map((part) => part.toString(16))
    .join(':')}::/64`
}

const rangeOf = (network: string): Range => {
  const [address = '', bits, more] = network.split('/')
  if (isIPv4(address) || isIPv6(address)) {
    const parsed = ipaddr.process(address)
    const size = parsed.kind() === 'ipv4' ? 32 : 128
    const length = bits === undefined ? size : Number(bits)
    if (more === undefined && /^\d+$/.test(bits ?? '0') && length <= size) return [parsed, length] as Range
  }
  throw new TypeError(`trustProxy: "${network}" is no address and no network (10.0.0.0/8, say)`)
}

const holds =
  (address: string) =>
  ([network, bits]: Range): boolean => {
    if (!(isIPv4(address) || isIPv6(address))) return false
    const parsed = ipaddr.process(address)
    return parsed.kind() === network.kind() && parsed.match(network, bits)
  }
