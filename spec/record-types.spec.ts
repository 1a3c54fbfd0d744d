// Tests the types of records. Mistakes are compile errors with readable messages. Fifty records compile within seconds.

import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'

const root = new URL('../', import.meta.url).pathname
// The folder is inside the project, so that imports of `keyrow` work.
const folder = join(root, 'build', 'record-types')
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })

const options: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  skipLibCheck: true,
  noEmit: true,
  types: ['node'],
}

// The declarations that all programs share are parsed once.
const host = ts.createCompilerHost(options)
const parse = host.getSourceFile.bind(host)
const parsed = new Map<string, ts.SourceFile | undefined>()
host.getSourceFile = (name, ...rest) => {
  if (name.startsWith(folder)) return parse(name, ...rest)
  if (!parsed.has(name)) parsed.set(name, parse(name, ...rest))
  return parsed.get(name)
}

/** Returns the compiler's messages for a program. */
const said = (name: string, code: string): readonly string[] => {
  const file = join(folder, `${name}.ts`)
  writeFileSync(file, code)
  return ts
    .getPreEmitDiagnostics(ts.createProgram([file], options, host))
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'))
}

const head = `
import { generated, int4, int8, nullable, record, text, uuid } from 'keyrow/records'
import { type Database } from 'keyrow/store'
declare const database: Database
const users = record({ table: 'users', key: 'id', columns: { id: generated(uuid), name: text } })
const notes = record({
  table: 'notes',
  key: 'id',
  columns: { id: generated(uuid), authorId: users.reference, title: text, body: nullable(text), views: generated(int4), revision: generated(int8) },
  revision: 'revision',
})
type Note = Parameters<typeof notes.refresh>[0]
type User = Parameters<typeof users.refresh>[0]
declare const note: Note
declare const user: User
declare const fresh: Exclude<Parameters<typeof notes.save>[0], Note>
`

const mistakes = [
  [
    'nothing wrong',
    `notes.build(database, { authorId: user.id, title: 'x', body: null }); notes.save(notes.set('body', null)(note)); notes.save(notes.set('title', 'y')(fresh)); notes.save(notes.update('views', (n) => n + 1)(note))`,
    undefined,
  ],
  [
    'a column that is none',
    `notes.set('titel', 'x')`,
    /'"titel"' is not assignable to parameter of type '"title" \| "body" \| "authorId" \| "views"'|'"titel"' is not assignable/,
  ],
  ['the revision is not set', `notes.set('revision', 2n)`, /'"revision"' is not assignable/],
  ['the revision is not updated', `notes.update('revision', (n) => n)`, /'"revision"' is not assignable/],
  [
    'what the database has yet to make is not set',
    `notes.set('views', 1)(fresh)`,
    /^Argument of type 'New<"notes", .*' is not assignable to parameter of type 'Saved<"notes"/,
  ],
  [
    'what the database has yet to make is not updated',
    `notes.update('views', (n) => n + 1)(fresh)`,
    /^Argument of type 'New<"notes", .*' is not assignable to parameter of type 'Saved<"notes"/,
  ],
  ['the key is not set', `notes.set('id', note.id)`, /'"id"' is not assignable/],
  [
    'another type',
    `notes.set('title', 7)`,
    /^Argument of type 'number' is not assignable to parameter of type 'string'/,
  ],
  [
    'null where there is none',
    `notes.set('title', null)`,
    /^Argument of type 'null' is not assignable to parameter of type 'string'/,
  ],
  [
    'an update to another type',
    `notes.update('views', (views) => String(views))`,
    /^Type 'string' is not assignable to type 'number'/,
  ],
  [
    'a missing column',
    `notes.build(database, { authorId: user.id, body: null })`,
    /Property 'title' is missing in type/,
  ],
  [
    'a column that does not exist',
    `notes.build(database, { authorId: user.id, title: 'x', body: null, admin: true })`,
    /'admin' does not exist in type/,
  ],
  [
    'the id of another record',
    `notes.find(database, user.id)`,
    /RecordId<"users", string>.*RecordId<"notes", string>|"users"[\s\S]*"notes"/,
  ],
  [
    'a plain text as an id',
    `notes.find(database, 'x')`,
    /^Argument of type 'string' is not assignable to parameter of type '.*RecordId|^Argument of type 'string'/,
  ],
  ['a record of another table', `notes.save(user)`, /"users"[\s\S]*"notes"|authorId/],
  ['a relation to another parent', `notes.hasMany('authorId')(note)`, /"notes"[\s\S]*"users"/],
  [
    'a value is read only',
    `note.title = 'x'`,
    /^Cannot assign to 'title' because it is a read-only property/,
  ],
] as const

t.test('mistakes are errors, with messages that name what is wrong', async (t) => {
  for (const [name, code, message] of mistakes) {
    const found = said(name.replaceAll(' ', '-'), `${head}${code}\n`)
    t.comment(`${name}: ${found.join(' | ')}`)
    if (message === undefined) t.strictSame(found, [], name)
    else {
      t.equal(found.length, 1, name)
      t.match(found[0], message)
      // The last line of a message may name the records, so it must be readable.
      const lines = (found[0] ?? '').split('\n')
      t.ok((lines.at(-1) ?? '').length < 800, `${name}: its last line is short enough to be read`)
    }
  }
})

t.test('a project of fifty records is checked in seconds', async (t) => {
  const columns = Array.from(
    { length: 12 },
    (_, index) => `field${String(index)}: ${['text', 'int4', 'nullable(text)'][index % 3] ?? ''}`,
  )
  const given = Array.from(
    { length: 12 },
    (_, index) => `field${String(index)}: ${index % 3 === 1 ? '1' : "'x'"}`,
  )
  const records = Array.from({ length: 50 }, (_, index) => {
    const before = index === 0 ? '' : `parent: r${String(index - 1)}.reference, `
    const parent = index === 0 ? '' : `parent: id${String(index - 1)}, `
    const name = `r${String(index)}`
    return `const ${name} = record({ table: '${name}', key: 'id', columns: { id: generated(uuid), ${before}${columns.join(', ')} } })
declare const id${String(index)}: Parameters<typeof ${name}.find>[1]
export const made${String(index)} = ${name}.build(database, { ${parent}${given.join(', ')} })
export const task${String(index)} = (value: Parameters<typeof ${name}.refresh>[0]) => ${name}.save(${name}.update('field1', (n) => n + 1)(${name}.set('field0', 'y')(value)))`
  })
  const start = performance.now()
  t.strictSame(said('fifty', [head, ...records].join('\n')), [])
  const seconds = (performance.now() - start) / 1000
  t.comment(`50 records: ${seconds.toFixed(1)} s`)
  t.ok(seconds < 60)
})
