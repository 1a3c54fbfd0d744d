// Limits the time of a task, because an endless wait would not name its task.

/** Returns the result of `task`. After the time limit, fails with an error that names the task. */
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
