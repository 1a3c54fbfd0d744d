// Wraps stores of express-session with promises, and moves the clock of the cookies.

import session from 'express-session'

export type Data = session.SessionData & Record<string, unknown>

/** Returns the operations of a store with promises. */
export const promised = (store: session.Store) => {
  const asked = <A>(run: (callback: (error?: unknown, result?: unknown) => void) => void): Promise<A> =>
    new Promise((resolve, reject) => {
      run((error, result) => {
        if (error === null || error === undefined) resolve(result as A)
        else reject(error instanceof Error ? error : new Error('refused', { cause: error }))
      })
    })
  return {
    get: (sid: string) => asked<Data | null | undefined>((done) => store.get(sid, done)),
    set: (sid: string, data: object) => asked<undefined>((done) => store.set(sid, data as Data, done)),
    touch: (sid: string, data: object) => asked<undefined>((done) => store.touch?.(sid, data as Data, done)),
    destroy: (sid: string) => asked<undefined>((done) => store.destroy(sid, done)),
    all: async () => Object.values(await asked<Record<string, Data>>((done) => store.all?.(done))),
    allAsGiven: () => asked<unknown>((done) => store.all?.(done)),
    length: () => asked<number>((done) => store.length?.(done)),
    clear: () => asked<undefined>((done) => store.clear?.(done)),
    /** Returns the `req.session` of a request, as express-session makes it. */
    request: async (sid: string) => {
      const data = await asked<Data | undefined>((done) => store.get(sid, done))
      const req = { sessionID: sid, sessionStore: store } as never
      return data && store.createSession(req, data)
    },
  }
}

export type PromisedStore = ReturnType<typeof promised>

/** Makes a cookie that expires after `maxAge` milliseconds. */
export const cookieFor = (maxAge?: number): session.Cookie => {
  const cookie = new session.Cookie()
  if (maxAge !== undefined) cookie.maxAge = maxAge
  return cookie
}

/** Stops the clock of this process, and returns the function that moves it. */
export const movableClock = () => {
  const { now } = Date
  let time = now()
  Date.now = () => time
  return {
    elapse: (milliseconds: number): void => {
      time += milliseconds
    },
    restore: (): void => {
      Date.now = now
    },
  }
}
