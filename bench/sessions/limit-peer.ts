// Measures hand-written SQL on postgres.js, which shows the highest rate that keyrow could reach. It batches loads and
// saves, caches sessions as plain objects, and reads only newer values. It does not keep keyrow's laws. For example, it
// has no secrets, no expiration and no conflicts.

import { randomUUID } from 'node:crypto'
import postgres, { type Row } from 'postgres'
import { inGroups, type OpenPeer } from './peer.js'

interface Known {
  revision: number
  values: Record<string, string>
}

const gather = <I, O>(send: (items: readonly I[]) => Promise<readonly O[]>) => {
  const line: {
    readonly item: I
    readonly resolve: (result: O) => void
    readonly reject: (error: unknown) => void
  }[] = []
  let running = 0
  let scheduled = false
  const pump = (): void => {
    scheduled = false
    while (running < 2 && line.length > 0) {
      const batch = line.splice(0, 128)
      running += 1
      send(batch.map(({ item }) => item))
        .then((results) => {
          for (const [index, { resolve }] of batch.entries()) resolve(results[index] as O)
        })
        .catch((error: unknown) => {
          for (const { reject } of batch) reject(error)
        })
        .finally(() => {
          running -= 1
          pump()
        })
    }
  }
  return (item: I): Promise<O> =>
    new Promise((resolve, reject) => {
      line.push({ item, resolve, reject })
      if (scheduled) return
      scheduled = true
      setImmediate(pump)
    })
}

const TABLES = `
-- The lock is needed because several processes may run this SQL at the same time.
select pg_advisory_xact_lock(1);
create schema if not exists by_hand;
create table if not exists by_hand.session (id uuid primary key, revision int not null) with (fillfactor = 70);
create table if not exists by_hand.entry (
  id uuid not null, key text not null, value jsonb not null, revision int not null, primary key (id, key)
) with (fillfactor = 85)`

const LOAD = `
select i.n::int as n, s.revision,
       case when s.revision > i.known then
         (select json_object_agg(key, value)::text from by_hand.entry e where e.id = s.id and e.revision > i.known) end as newer
from unnest($1::text::uuid[], $2::text::int[]) with ordinality as i (id, known, n) join by_hand.session s on s.id = i.id`

const SAVE = `
with input as (
  select distinct on (id) id, key, value from unnest($1::text::uuid[], $2::text::text[], $3::text::text[]) as i (id, key, value)
), head as (
  update by_hand.session s set revision = revision + 1 from input where s.id = input.id returning s.id, s.revision
), written as (
  insert into by_hand.entry select id, key, value::jsonb, revision from input join head using (id) order by id
  on conflict (id, key) do update set value = excluded.value, revision = excluded.revision
)
select id::text, revision from head`

const texts = (items: readonly string[]): string =>
  `{${items.map((item) => `"${item.replaceAll(/["\\]/g, '\\$&')}"`).join(',')}}`

export const byHand: OpenPeer = async ({ postgres: url }) => {
  const sql = postgres(url, { max: 10, fetch_types: false, onnotice: () => undefined })
  await sql.unsafe(TABLES).simple()
  // Two concurrent statements update their rows in no common order, so one of them may be the victim of a deadlock.
  const write = (params: readonly string[]): Promise<readonly Row[]> =>
    sql.unsafe<Row[]>(SAVE, [...params], { prepare: true }).catch((error: unknown) => {
      if ((error as { readonly code?: unknown }).code !== '40P01') throw error
      return write(params)
    })
  const known = new Map<string, Known>()
  const load = gather(async (ids: readonly string[]) => {
    const rows = await sql.unsafe(
      LOAD,
      [`{${ids.join(',')}}`, `{${ids.map((id) => known.get(id)?.revision ?? 0).join(',')}}`],
      { prepare: true },
    )
    const found: Known[] = []
    for (const { n, revision, newer } of rows as unknown as {
      n: number
      revision: number
      newer: string | null
    }[]) {
      const id = ids[n - 1] as string
      const session = known.get(id) ?? { revision: 0, values: {} }
      if (newer !== null) Object.assign(session.values, JSON.parse(newer))
      session.revision = Math.max(session.revision, revision)
      known.set(id, session)
      found[n - 1] = session
    }
    return found
  })
  const save = gather(
    async (edits: readonly { readonly id: string; readonly key: string; readonly value: string }[]) => {
      const params = [
        `{${edits.map(({ id }) => id).join(',')}}`,
        texts(edits.map(({ key }) => key)),
        texts(edits.map(({ value }) => JSON.stringify(value))),
      ]
      const rows = await write(params)
      const revisions = new Map(rows.map((row) => [row['id'] as string, row['revision'] as number]))
      for (const { id, key, value } of edits) {
        const session = known.get(id)
        if (session === undefined) continue
        session.values[key] = value
        session.revision = revisions.get(id) ?? session.revision
      }
      return edits
    },
  )
  return {
    fill: (count, values) =>
      inGroups(count, async () => {
        const id = randomUUID()
        await sql`insert into by_hand.session values (${id}, 1)`
        await sql.unsafe(
          `insert into by_hand.entry select $1::uuid, key, value, 1 from jsonb_each($2::text::jsonb)`,
          [id, JSON.stringify(values)],
        )
        return id
      }),
    cycle: async (id, key, value) => {
      await load(id)
      await save({ id, key, value })
    },
    read: async (id) => {
      await load(id)
    },
    close: () => sql.end({ timeout: 5 }),
  }
}
