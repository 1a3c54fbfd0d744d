// Lets a process stop or kill itself at random, before and after each command of its cache and each statement.

/** `points` has the chance of a stop and of a kill at each point, from 0 to 1. Without it nothing happens. */
export const withPoints = (points, { database, cache }) => {
  if (points === undefined) return { database, cache }
  const point = () => {
    const chance = Math.random()
    if (chance < points.kill) process.kill(process.pid, 'SIGKILL')
    else if (chance < points.kill + points.stop) process.kill(process.pid, 'SIGSTOP')
  }
  const pointed =
    (operation) =>
    (...args) =>
    async () => {
      point()
      const result = await operation(...args)()
      point()
      return result
    }
  return {
    database: {
      ...database,
      query: pointed(database.query),
      transaction: pointed(database.transaction),
    },
    cache: cache && {
      ...cache,
      get: pointed(cache.get),
      set: pointed(cache.set),
      swap: pointed(cache.swap),
      drop: pointed(cache.drop),
    },
  }
}
