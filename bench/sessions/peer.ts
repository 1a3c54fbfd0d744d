// What is measured: stores of sessions, each through what an application would call.

/** One store. A session is named by its token. */
export interface Peer {
  /** Makes so many sessions with these values; gives their tokens. */
  readonly fill: (count: number, values: Values) => Promise<readonly string[]>
  /** What a request costs that changes one key: load, change, save. */
  readonly cycle: (token: string, key: string, value: string) => Promise<void>
  /** What a request costs that changes nothing. */
  readonly read: (token: string) => Promise<void>
  readonly close: () => Promise<void>
}

export type Values = Readonly<Record<string, string>>

/** The values of a session with so many keys, of so many bytes each. */
export const filled = (keys: number, bytes: number): Values =>
  Object.fromEntries(Array.from({ length: keys }, (_, index) => [`key ${String(index)}`, 'v'.repeat(bytes)]))

export interface Servers {
  readonly postgres: string
  readonly redis: number | undefined
}

export type OpenPeer = (servers: Servers) => Promise<Peer>

/** In groups, so that filling a store is quick and strains nothing. */
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
