// A peer is a session store that the benchmark measures, through the functions that an application calls.

/** One session store. A token identifies a session. */
export interface Peer {
  /** Creates `count` sessions with these values, and returns their tokens. */
  readonly fill: (count: number, values: Values) => Promise<readonly string[]>
  /** Does the work of a request that changes one key: load, change and save. */
  readonly cycle: (token: string, key: string, value: string) => Promise<void>
  /** Does the work of a request that changes nothing. */
  readonly read: (token: string) => Promise<void>
  readonly close: () => Promise<void>
}

export type Values = Readonly<Record<string, string>>

/** Returns the values of a session with `keys` keys. Each value has `bytes` bytes. */
export const filled = (keys: number, bytes: number): Values =>
  Object.fromEntries(Array.from({ length: keys }, (_, index) => [`key ${String(index)}`, 'v'.repeat(bytes)]))

export interface Servers {
  readonly postgres: string
  readonly redis: number | undefined
}

export type OpenPeer = (servers: Servers) => Promise<Peer>

/** Calls `make` in concurrent groups of 50. The groups fill a store quickly, and do not overload its server. */
export const inGroups = async <A>(
  count: number,
  make: (index: number) => Promise<A>,
): Promise<readonly A[]> => {
  const made: A[] = []
  while (made.length < count)
    made.push(
      ...(await Promise.all(
        Array.from({ length: Math.min(50, count - made.length) }, (_, index) => make(made.length + index)),
      )),
    )
  return made
}
