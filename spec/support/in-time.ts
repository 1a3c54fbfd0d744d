// A bound on what must end: a spec that waits for something for ever would not say for what.

/** What `task` gives, or a failure that names it once the time is up. */
export const inTime = async <A>(name: string, milliseconds: number, task: PromiseLike<A>): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`${name} did not end within ${String(milliseconds)} ms`)),
      milliseconds,
    )
  })
  try {
    return await Promise.race([task, late])
  } finally {
    clearTimeout(timer)
  }
}
