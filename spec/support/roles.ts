// Makes roles with their own settings on a real PostgreSQL.

import { quietPool } from './databases.js'
import { freshSchema } from './stores.js'

export type RoleSettings = Readonly<Record<string, string>>

/** Makes a role that is a superuser or has no rights yet. Returns the address with which the role logs in. */
export const roleWith = async (
  url: string,
  settings: RoleSettings,
  attributes = 'superuser',
): Promise<{ readonly role: string; readonly url: string }> => {
  const role = freshSchema()
  const sql = quietPool(url, { max: 1 })
  try {
    await sql.unsafe(`create role ${role} login ${attributes}`)
    for (const [name, value] of Object.entries(settings))
      await sql.unsafe(`alter role ${role} set ${name} = '${value}'`)
  } finally {
    await sql.end({ timeout: 1 })
  }
  const own = new URL(url)
  own.username = role
  return { role, url: own.href }
}
