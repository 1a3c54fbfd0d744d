// Stores of express-session as promises, and the clock by which cookies' times are set.

import session from 'express-session'

export type Data = session.SessionData & Record<string, unknown>

/** A store's operations as promises. */
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
    /** The `req.session` of a request, as express-session makes it. */
    request: async (sid: string) => {
      const data = await asked<Data | undefined>((done) => store.get(sid, done))
      const req = { sessionID: sid, sessionStore: store } as never
      return data && store.createSession(req, data)
    },
  }
}

export type PromisedStore = ReturnType<typeof promised>

/** A cookie whose time is over in so many milliseconds. */
export const cookieFor = (maxAge?: number): session.Cookie => {
  const cookie = new session.Cookie()
  if (maxAge !== undefined) cookie.maxAge = maxAge
  return cookie
}

/** Stops the clock of this process, by which the times of cookies are set and looked at, and moves it. */
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
