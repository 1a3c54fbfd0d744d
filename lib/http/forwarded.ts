// Reads the client's address, scheme and host as trusted proxies report them: in `X-Forwarded-For`, `-Proto` and
// `-Host`, or in `Forwarded` (RFC 7239). Each proxy appends an entry to `X-Forwarded-For` or `Forwarded`. A client can
// forge the earlier entries, so keyrow uses only the entries that trusted proxies have appended. keyrow uses the first
// value of `-Proto` and of `-Host`, so the first proxy must overwrite these two headers.
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/**
 * The trusted proxies: `true` for one proxy, the number of proxies, or a list of their addresses and networks
 * (`10.0.0.0/8`, `fd00::/8`, `loopback`, `linklocal`, `uniquelocal`).
 */
export type TrustProxy = boolean | number | readonly string[]

/** Returns a header of a request by its name in lower case. */
type ReadHeader = (name: string) => string | undefined

/** The report of the trusted proxies. Without a trusted proxy this object is empty. */
export interface Forwarded {
  /** The client's address without a port. */
  readonly address?: string | undefined
  readonly proto?: string | undefined
  /** The host that the client requested, with the port if the client named one. */
  readonly host?: string | undefined
}

/** Reads what the trusted proxies report. `peer` is the address of the connection. */
type ReadForwarded = (header: ReadHeader, peer: string | undefined) => Forwarded

/** Returns the index of the client in a list of addresses, which begins with the address farthest from the server. */
type ClientIndex = (addresses: readonly (string | undefined)[]) => number

const NAMED: Readonly<Record<string, readonly string[]>> = {
  loopback: ['127.0.0.1/8', '::1/128'],
  linklocal: ['169.254.0.0/16', 'fe80::/10'],
  uniquelocal: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
}

/** Caches the results of `byNetworks`, so that each list of proxies is parsed only once. */
const readers = new WeakMap<readonly string[], ReadForwarded>()

/** @throws `RangeError` for a negative or fractional number, `TypeError` for an entry that is no address or network */
export const forwardedBy = (trustProxy: TrustProxy = false): ReadForwarded => {
  if (typeof trustProxy !== 'object') return byHops(Number(trustProxy))
  const reader = readers.get(trustProxy) ?? byNetworks(trustProxy)
  readers.set(trustProxy, reader)
  return reader
}

const byHops = (hops: number): ReadForwarded => {
  if (!(Number.isInteger(hops) && hops >= 0))
    throw new RangeError(`trustProxy is ${String(hops)}; a number of proxies is a whole number from 0 on`)
  if (hops === 0) return () => ({})
  return (header) => readHeaders(header, (addresses) => addresses.length - hops)
}

const byNetworks = (networks: readonly string[]): ReadForwarded => {
  const ranges = networks.flatMap((network) => NAMED[network] ?? [network]).map(parseNetwork)
  const isTrusted = (text: string | undefined): boolean => {
    const address = parseAddress(text)
    return ranges.some(
      ([network, bits]) => address?.kind() === network.kind() && address.match(network, bits),
    )
  }
  const clientIndex: ClientIndex = (addresses) => addresses.findLastIndex((address) => !isTrusted(address))
  return (header, peer) => (isTrusted(peer) ? readHeaders(header, clientIndex) : {})
}

/**
 * `Forwarded` is read only if the request has none of the three `X-Forwarded` headers. A proxy that sets these headers
 * may pass on the client's `Forwarded` unchecked.
 */
const readHeaders = (header: ReadHeader, clientIndex: ClientIndex): Forwarded => {
  // `clientIndex` is negative if the request has passed fewer proxies than `trustProxy` says, or if all addresses are
  // trusted. Both can happen with a client in the internal network. In these cases the first address is the client's.
  const indexIn: ClientIndex = (addresses) => Math.max(0, clientIndex(addresses))
  const [chain, proto, host] = ['for', 'proto', 'host'].map((name) =>
    header(`x-forwarded-${name}`)
      ?.split(',')
      .map((item) => item.trim()),
  )
  if (chain !== undefined || proto !== undefined || host !== undefined)
    return new Report(chain?.[indexIn(chain)], proto?.[0], host?.[0])
  const hops = parseForwarded(header('forwarded') ?? '')
  const hop = hops[indexIn(hops.map(({ for: address }) => address))]
  return new Report(hop?.['for'], hop?.['proto'], hop?.['host'])
}

class Report implements Forwarded {
  readonly #address: string | undefined
  readonly proto: string | undefined
  readonly host: string | undefined

  constructor(address: string | undefined, proto: string | undefined, host: string | undefined) {
    this.#address = address
    this.proto = proto?.toLowerCase()
    this.host = host
  }

  /** Parses the address at each read, because most adapters have no token guard. */
  get address(): string | undefined {
    return addressOf(this.#address)
  }
}

/** Returns the parameters of each element of `Forwarded`. Each proxy appends one element. */
const parseForwarded = (header: string): readonly Readonly<Record<string, string>>[] =>
  splitUnquoted(header, ',').map((element) =>
    Object.fromEntries(
      splitUnquoted(element, ';').map((pair) => {
        const at = pair.indexOf('=')
        return [pair.slice(0, at).trim().toLowerCase(), unquote(pair.slice(at + 1).trim())]
      }),
    ),
  )

const splitUnquoted = (text: string, separator: ',' | ';'): readonly string[] =>
  text.match(separator === ',' ? /(?:"(?:[^"\\]|\\.)*"|[^,"]|")+/g : /(?:"(?:[^"\\]|\\.)*"|[^;"]|")+/g) ?? []

const unquote = (text: string): string =>
  text.startsWith('"') ? text.slice(1, -1).replaceAll(/\\(.)/g, '$1') : text

/** Returns the text without brackets and port. */
const withoutPort = (text: string): string => {
  const [, bracketed, plain = text] = /^\[([^\]]*)\](?::\w+)?$|^([^:]*):\w+$/.exec(text) ?? []
  return bracketed ?? plain
}

/** Parses an address. `process` of ipaddr.js converts an IPv4 address in IPv6 notation to an IPv4 address. */
const parseAddress = (text = '') => {
  const address = withoutPort(text)
  return isIP(address) === 0 ? undefined : ipaddr.process(address)
}

/** Returns an address in canonical form, or a label such as `_hidden`, which a proxy may send instead. */
export const addressOf = (text: string | undefined): string | undefined => {
  const label = withoutPort(text ?? '')
  return parseAddress(text)?.toString() ?? (/^_[\w.-]{1,63}$/.test(label) ? label : undefined)
}

/** Returns the /64 network of an IPv6 address, since one client usually has a /64. An IPv4 address stays whole. */
export const networkOf = (address: string): string => {
  const parsed = parseAddress(address)
  if (!(parsed instanceof ipaddr.IPv6)) return addressOf(address) ?? address
  const network = parsed.parts.slice(0, 4).map((part) => part.toString(16))
  return `${network.join(':')}::/64`
}

/** Returns the /24 network of an IPv4 address, or the /48 network of an IPv6 address. Many clients share such a network. */
export const sharedNetworkOf = (address: string | undefined): string | undefined => {
  const parsed = parseAddress(address)
  if (parsed === undefined) return undefined
  if (!(parsed instanceof ipaddr.IPv6)) return `${parsed.octets.slice(0, 3).join('.')}.0/24`
  const network = parsed.parts.slice(0, 3).map((part) => part.toString(16))
  return `${network.join(':')}::/48`
}

const parseNetwork = (network: string): ReturnType<typeof ipaddr.parseCIDR> => {
  const [address = '', bits, more] = network.split('/')
  if (isIP(address) !== 0) {
    const parsed = ipaddr.process(address)
    const size = parsed.kind() === 'ipv4' ? 32 : 128
    const length = bits === undefined ? size : Number(bits)
    if (more === undefined && /^\d+$/.test(bits ?? '0') && length <= size) return [parsed, length]
  }
  throw new TypeError(`trustProxy: "${network}" is neither an address nor a network (10.0.0.0/8, say)`)
}
