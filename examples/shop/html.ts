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

export interface DocumentParts {
  readonly header?: Html
  readonly footer?: Html
  /** How often the browser reads the document again, in seconds. */
  readonly refreshSeconds?: number
}

/** Returns a whole document. */
export const document = (
  title: string,
  main: Html,
  { header = nothing, footer = nothing, refreshSeconds }: DocumentParts = {},
): string =>
  html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
${refreshSeconds === undefined ? nothing : html`<meta http-equiv="refresh" content="${refreshSeconds}">`}
<title>${title} · keyrow shop</title>
<style>${style}</style>
</head>
<body>
${header}
<main>
<h1>${title}</h1>
${main}
</main>
${footer}
</body>
</html>
`.toString()

const style = html`
:root { color-scheme: light dark; --ink: #23303b; --soft: #66727c; --paper: #f6f4ef; --card: #fff; --line: #dedad0; --key: #96610a; --good: #2c6e2f; --bad: #ae2012 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e3da; --soft: #a09a8e; --paper: #191b1d; --card: #23262a; --line: #3a3e43; --key: #e3ac4a; --good: #8fce8f; --bad: #ff8d7a }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
header, main, footer { max-width: 52rem; margin: auto; padding: .75rem 1rem }
footer { border-top: 1px solid var(--line); color: var(--soft); font-size: .9em; overflow-wrap: anywhere }
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
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1rem; margin: 1rem 0 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .5rem 1rem 1rem; min-width: 0 }
.card h3 { font-size: 1rem; margin: .5rem 0 }
.card svg { display: block; width: 100% }
svg text { fill: var(--soft); font-size: 12px }
svg line { stroke: var(--line) }
.load { fill: #3d7ea6 }
.work { fill: var(--line) }
.save { fill: var(--key) }
.failed { fill: var(--bad) }
.steps { padding-inline-start: 0; list-style: none; font-size: .9em }
.good { color: var(--good); font-weight: 600; margin: .5rem 0 0 }
.bad { color: var(--bad); font-weight: 600; margin: .5rem 0 0 }
.lost { color: var(--bad); padding-inline-start: 1.1rem; list-style: disc }
.key svg { width: .8em; height: .8em; margin-inline-start: .75em }
iframe { width: 100%; height: 26rem; border: 1px solid var(--line); border-radius: .6rem }
@media (max-width: 34rem) { header b { flex-basis: 100% } }
`

const hash = createHash('sha256').update(style.toString()).digest('base64')

/**
 * With this policy a browser loads no resources except `data:` images and frames of this server, runs no script, and
 * sends forms to this server only.
 */
export const contentSecurityPolicy = `default-src 'none'; style-src 'sha256-${hash}'; img-src data:; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'`
