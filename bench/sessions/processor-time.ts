// Reads the processor time of servers from /proc, which only Linux has. The entry of a process also includes the time
// of its ended children.

import { existsSync, readdirSync, readFileSync } from 'node:fs'

/** The length of a clock tick. Linux counts processor time in hundredths of a second. */
const TICK_MS = 10

interface Usage {
  readonly parent: number
  readonly own: number
  readonly children: number
}

const usageOf = (pid: string): Usage | undefined => {
  try {
    // The program's name is in brackets. The name itself may contain spaces and brackets.
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number)
    const at = (index: number): number => fields[index] ?? Number.NaN
    return { parent: at(1), own: at(11) + at(12), children: at(13) + at(14) }
  } catch {
    return undefined
  }
}

/**
 * Returns the processor time of these processes and of their children, in milliseconds. Without /proc it returns NaN.
 */
export const processorTime = (servers: readonly number[]): number => {
  if (!existsSync('/proc/self/stat')) return Number.NaN
  let ticks = 0
  for (const pid of readdirSync('/proc', { encoding: 'utf8' }).filter((name) => /^\d+$/.test(name))) {
    const usage = usageOf(pid)
    if (usage === undefined) continue
    if (servers.includes(Number(pid))) ticks += usage.own + usage.children
    else if (servers.includes(usage.parent)) ticks += usage.own
  }
  return ticks * TICK_MS
}
