// What belongs to the whole process: values that all copies of keyrow share, timers, and lists of what is under way. A
// bundler or a development server may load two copies.
import { AsyncLocalStorage } from 'node:async_hooks'
import timers from 'node:timers'

const KEY = Symbol.for('keyrow:shared')

/**
 * Returns the value that all copies of keyrow share under `name`. The first call with this name makes the value. The
 * name ends in a version number, which must change when the type of the value changes.
 */
export const shared = <A>(name: `${string}:${number}`, make: () => A): A => {
  const holder = globalThis as { [KEY]?: Map<string, unknown> }
  const all = holder[KEY] ?? new Map<string, unknown>()
  holder[KEY] = all
  const found = all.get(name) ?? make()
  all.set(name, found)
  return found as A
}

// keyrow keeps the timer functions that exist when keyrow is imported. A test may later replace Node.js's timers with
// fake timers, to let a session expire. keyrow's own waits for a database must still work in such a test.

export const { setImmediate, setTimeout, clearTimeout } = timers

// A `Set` or `Map` that gets and loses a member in every request costs much in garbage collection. V8 replaces its table
// after a few changes. Once a table has reached the old generation, it keeps all later tables alive, with the members
// that they had, until the next full collection. So such members are in an array, and know their place in it.

/** A member of a list. A member is in at most one list. */
export interface Listed {
  /** The index of the member in its list. It is -1 if the member is in no list. */
  place: number
}

export const addTo = <A extends Listed>(list: A[], member: A): void => {
  member.place = list.length
  list.push(member)
}

/** Removes a member, and returns whether it was in the list. The order of the others may change. */
export const removeFrom = <A extends Listed>(list: A[], member: A): boolean => {
  const { place } = member
  if (place < 0) return false
  const last = list.pop() as A
  if (last !== member) {
    list[place] = last
    last.place = place
  }
  member.place = -1
  return true
}

// keyrow sets a deadline for every statement, and almost every statement ends before its deadline. To make and clear a
// timer of Node.js for each deadline takes several microseconds. So all deadlines share one timer, which runs until the
// earliest deadline. A deadline that has passed may be noticed a millisecond late.

/** A function that is called at a time, given as a value of `performance.now()`. */
export interface Alarm extends Listed {
  readonly at: number
  readonly act: () => void
}

/** `performance.now` of Node.js, which fake timers replace, too. */
export const now = performance.now.bind(performance)

/**
 * Calls a function in no request's async context. In the async context of a request, an alarm of another request would run
 * in this request's transaction.
 */
export const neutral = AsyncLocalStorage.snapshot()

const alarms: Alarm[] = []
let timer: NodeJS.Timeout | undefined
let timerAt = Number.POSITIVE_INFINITY

/** Calls `act` after `ms` milliseconds, in no request's async context, unless the alarm is cancelled before. */
export const setAlarm = (ms: number, act: () => void): Alarm => {
  const alarm = { at: now() + ms, act, place: -1 }
  addTo(alarms, alarm)
  if (alarm.at < timerAt) wakeAt(alarm.at)
  // A pending deadline keeps the process running, like a timer.
  else if (alarms.length === 1) timer?.ref()
  return alarm
}

export const cancelAlarm = (alarm: Alarm): void => {
  if (removeFrom(alarms, alarm) && alarms.length === 0) timer?.unref()
}

const wakeAt = (at: number): void => {
  clearTimeout(timer)
  timerAt = at
  timer = neutral(setTimeout, wake, Math.max(0, Math.ceil(at - now())))
}

const wake = (): void => {
  timerAt = Number.POSITIVE_INFINITY
  timer = undefined
  const time = now()
  let next = Number.POSITIVE_INFINITY
  const ringing: Alarm[] = []
  for (const alarm of alarms)
    if (alarm.at > time) next = Math.min(next, alarm.at)
    else ringing.push(alarm)
  // An alarm may cancel another one.
  for (const alarm of ringing) if (removeFrom(alarms, alarm)) alarm.act()
  if (next < timerAt) wakeAt(next)
}

export const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** The maximum delay of a timer. Node.js fires a timer with a longer delay after 1 ms. */
export const MAX_TIMER_MS = 2 ** 31 - 1

export const nextTick = process.nextTick.bind(process)

/** The version of this package. The table `metadata` records which version made the tables. */
export const RELEASE = '0.1.0'
