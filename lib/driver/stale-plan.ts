// Errors of a prepared statement that does not fit any more: a column that it reads has another type now, or its
// connection has forgotten it (DISCARD ALL, a pooler that gave the connection to somebody else). The server says so
// before it runs anything.

/** Whether a driver's own error is one of these: nothing was done, and the statement can be prepared anew. */
export const isStalePlan = (error: unknown): boolean => {
  const { code, routine } = (error ?? {}) as { readonly code?: unknown; readonly routine?: unknown }
  // By the routine: the same SQLSTATE stands for all that PostgreSQL does not support, and messages are translated.
  return code === '0A000' ? routine === 'RevalidateCachedQuery' : isForgotten(error)
}

/** Whether the connection has no statement of that name, or another one. */
export const isForgotten = (error: unknown): boolean => {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return code === '26000' || code === '42P05'
}
