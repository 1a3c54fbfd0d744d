// The timers as they were when keyrow was imported. A test that puts fake ones in their place, to let a session or a
// cache of its own expire, must not stop what keyrow waits for: a turn of the event loop, a database's answer.
import timers from 'node:timers'

export const { setImmediate, setTimeout, clearTimeout } = timers

export const nextTick = process.nextTick.bind(process)
