// Collects the code in the documentation: every TypeScript block of README and docs, and every example in a docstring.
// Each block has its place and its documented output.

import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

export interface CodeBlock {
  /** The place, such as `docs/tutorial.md:12`. */
  readonly place: string
  readonly code: string
  /** The comments of the `console.log(…) // …` lines, in order. */
  readonly prints: readonly string[]
  /** Whether the program is a server, which does not end by itself. */
  readonly serves: boolean
}

const root = new URL('../../', import.meta.url).pathname

export const codeBlocks = async (): Promise<readonly CodeBlock[]> => {
  const pages = ['README.md', ...(await readdir(join(root, 'docs'))).map((name) => join('docs', name))]
  const modules = (await readdir(join(root, 'lib'), { recursive: true })).filter((name) =>
    name.endsWith('.ts'),
  )
  const found = await Promise.all([
    ...pages.filter((name) => name.endsWith('.md')).map((name) => blocksOf(name)),
    ...modules.map((name) => blocksOf(join('lib', name))),
  ])
  return found.flat()
}

const blocksOf = async (name: string): Promise<readonly CodeBlock[]> => {
  const text = await readFile(join(root, name), 'utf8')
  const blocks = text.matchAll(/^( \* )?```ts\n([\s\S]*?)^(?: \* )?```$/gm)
  return [...blocks].map((match) => {
    const line = text.slice(0, match.index).split('\n').length
    const code = (match[2] ?? '').replaceAll(/^ \* ?/gm, match[1] === undefined ? '$&' : '')
    return {
      place: `${name}:${String(line)}`,
      code,
      prints: [...code.matchAll(/^.*console\.log\(.*\) \/\/ (.*)$/gm)].map((printed) => printed[1] ?? ''),
      serves: code.includes('.listen(') && (!code.includes('.close(') || code.includes("once('SIGTERM'")),
    }
  })
}
