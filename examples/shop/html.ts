// Makes HTML safely. `html` escapes every interpolated value, except results of `html` itself. A value may be
// interpolated only between tags or in a quoted attribute.

import { createHash } from 'node:crypto'

class Html {
  constructor(private readonly text: string) {}

  toString(): string {
    return this.text
  }
}

export type { Html }

type Part = Html | readonly Html[] | string | number

export const html = (strings: TemplateStringsArray, ...parts: readonly Part[]): Html =>
  new Html(String.raw({ raw: strings }, ...parts.map(rendered)))

const rendered = (part: Part): string => {
  if (part instanceof Html) return part.toString()
  if (typeof part === 'object') return part.join('')
  return String(part).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

export const nothing = html``

/** Returns a whole document. */
export const document = (title: string, header: Html, main: Html): string =>
  html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>${title} · keyrow shop</title>
<style>${style}</style>
</head>
<body>
<header>${header}</header>
<main>
<h1>${title}</h1>
${main}
</main>
</body>
</html>
`.toString()

const style = html`
:root { color-scheme: light dark; --ink: #23303b; --soft: #66727c; --paper: #f6f4ef; --card: #fff; --line: #dedad0; --key: #96610a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e3da; --soft: #a09a8e; --paper: #191b1d; --card: #23262a; --line: #3a3e43; --key: #e3ac4a }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
header, main { max-width: 52rem; margin: auto; padding: .75rem 1rem }
header { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; align-items: center; border-bottom: 1px solid var(--line) }
header b { margin-right: auto }
h1 { font-size: 1.5rem; margin: 1rem 0 }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .5rem }
a { color: var(--key) }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: 0 }
input, button { font: inherit; color: inherit; padding: .35rem .7rem; border: 1px solid var(--line); border-radius: .4rem; background: var(--card) }
button { border-color: var(--key); color: var(--key); cursor: pointer }
button.main { background: var(--key); color: var(--card) }
input[type=number] { width: 4.5rem }
ul { list-style: none; margin: 0; padding: 0 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem }
.grid li { display: flex; flex-direction: column; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem }
.grid form { margin-top: auto; justify-content: space-between }
.sign { font-size: 2rem; line-height: 1.2 }
.soft { color: var(--soft); margin: .25rem 0 1rem }
.lines li { display: grid; grid-template-columns: 1fr auto; gap: .5rem 1rem; padding: .75rem 0; border-bottom: 1px solid var(--line) }
.lines li > .cents { text-align: end }
.lines form:last-child { justify-content: end }
.cents { font-variant-numeric: tabular-nums }
.total { text-align: end; font-size: 1.2rem }
.stack { flex-direction: column; align-items: stretch; max-width: 22rem; margin-bottom: 1rem }
.stack label { display: grid; gap: .25rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; min-width: 100% }
th, td { text-align: start; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line) }
th { white-space: nowrap }
td { overflow-wrap: anywhere }
td, code { font-family: ui-monospace, monospace; font-size: .9em }
@media (max-width: 34rem) { header b { flex-basis: 100% } }
`

const hash = createHash('sha256').update(style.toString()).digest('base64')

/**
 * With this policy a browser loads no resources except `data:` images, runs no script, and sends forms to this server
 * only.
 */
export const contentSecurityPolicy = `default-src 'none'; style-src 'sha256-${hash}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`
