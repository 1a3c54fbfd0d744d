// The page of the lab. It draws what two overlapping requests have done on two stores, and tells what copied cookies could
// do. It needs no script.

import { type Html, html, nothing } from './html.js'
import type { ExperimentName, Outcome, Run, Step } from './lab.js'
import type { Theft, TheftRun, TheftStep } from './lab-theft.js'

const WIDTH = 340
const LEFT = 46
const LANE = 26

/** The height of the drawing of two requests. */
const HEIGHT = 2 * LANE + 22

const lanes: readonly (readonly [request: Step['request'], name: string])[] = [
  ['slow', 'slow'],
  ['quick', 'quick'],
]

const drawing = ({ steps }: Outcome, name: string): Html => {
  const end = Math.max(1, ...steps.map(({ to }) => to))
  const at = (ms: number): string => (LEFT + (ms / end) * (WIDTH - LEFT)).toFixed(1)
  // A statement takes a few milliseconds, so each bar has a minimum width.
  const width = ({ from, to }: Step): string => Math.max(3, ((to - from) / end) * (WIDTH - LEFT)).toFixed(1)
  return html`
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="Timeline of two requests on ${name}; the list below has the same facts">
${lanes.map(
  ([request, label], lane) => html`
<text x="0" y="${lane * LANE + 16}">${label}</text>
<line x1="${LEFT}" x2="${WIDTH}" y1="${lane * LANE + 12}" y2="${lane * LANE + 12}"></line>
${steps
  .filter((step) => step.request === request)
  .map(
    (step) =>
      html`<rect class="${step.failed ? 'failed' : step.does === 'sign out' ? 'save' : step.does}" x="${at(step.from)}" y="${lane * LANE + 3}" width="${width(step)}" height="18" rx="2"></rect>`,
  )}`,
)}
<text x="${LEFT}" y="${HEIGHT - 4}">0</text>
<text x="${WIDTH}" y="${HEIGHT - 4}" text-anchor="end">${end} ms</text>
</svg>`
}

const did: Readonly<Record<Step['does'], string>> = {
  load: 'loads',
  work: 'works',
  save: 'saves',
  'sign out': 'signs out',
}

const sentence = ({ request, does, from, to, statements, failed }: Step): Html => html`<li>
<span class="cents">${from}–${to} ms</span>: the ${request} request ${failed ? 'wants to save, and is told that the session is gone' : did[does]}${
  statements === 0
    ? ''
    : html` <span class="soft">${statements === 1 ? '1 statement' : html`${statements} statements`}</span>`
}</li>`

const card = (title: string, outcome: Outcome, { good, bad }: Text): Html => html`
<section class="card" data-lost="${outcome.lost.length}">
<h3>${title}</h3>
${drawing(outcome, title)}
<ol class="steps">${outcome.steps.map(sentence)}</ol>
${
  outcome.lost.length === 0
    ? html`<p class="good">✓ ${good}</p>`
    : html`<p class="bad">✗ ${bad}</p><ul class="lost">${outcome.lost.map((fact) => html`<li>${fact}</li>`)}</ul>`
}
</section>`

interface Text {
  readonly title: string
  readonly story: (name: string) => string
  readonly button: string
  readonly good: string
  readonly bad: string
}

const texts: Readonly<Record<ExperimentName, Text>> = {
  tabs: {
    title: 'Two tabs at once',
    story: (name) =>
      `${name} has tea in the cart. A slow request adds a boat. While it works, a quick request adds an oar, and makes the theme dark.`,
    button: 'Run two tabs',
    good: 'Both requests have kept everything that they have changed.',
    bad: 'Lost:',
  },
  'sign-out': {
    title: 'A slow request ends after the sign-out',
    story: (name) =>
      `${name} is signed in. While a slow request adds a boat to the cart, ${name} signs out in another tab.`,
    button: 'Run the sign-out',
    good: 'Nobody is signed in, and no row of the session is left.',
    bad: 'The slow request has undone the sign-out:',
  },
}

const experiment = (name: ExperimentName, user: string, run: Run | undefined): Html => {
  const { title, story, button } = texts[name]
  return html`
<section id="${name}">
<h2>${title}</h2>
<p>${story(user)}</p>
<form method="post" action="/lab/${name}"><button class="main">${run === undefined ? button : 'Run again'}</button></form>
${run === undefined ? nothing : html`<div class="pair">${card('keyrow: a row for each key', run.keyrow, texts[name])}${card('One document for each session', run.whole, texts[name])}</div>`}
</section>`
}

const theftStep = ({ who, does, status }: TheftStep): Html => html`<li>
the ${who} ${does}: <span class="${status < 400 ? 'soft' : 'bad'}">${status < 400 ? 'done' : 'refused'} (${status})</span></li>`

const theftCard = (title: string, { steps, stolen }: Theft): Html => html`
<section class="card" data-lost="${stolen.length}">
<h3>${title}</h3>
<ol class="steps">${steps.map(theftStep)}</ol>
${
  stolen.length === 0
    ? html`<p class="good">✓ After ten minutes the copied cookies have changed nothing.</p>`
    : html`<p class="bad">✗ The thief still has the session:</p><ul class="lost">${stolen.map((fact) => html`<li>${fact}</li>`)}</ul>`
}
</section>`

const theft = (user: string, run: TheftRun | undefined): Html => html`
<section id="theft">
<h2>A copied cookie in a second browser</h2>
<p>${user} is signed in. A thief copies the cookies, and uses them at once, and again after eleven minutes. The two browsers are made by
this page. The clock of the experiment is put forward.</p>
<form method="post" action="/lab/theft"><button class="main">${run === undefined ? 'Run the theft' : 'Run again'}</button></form>
${run === undefined ? nothing : html`<div class="pair">${theftCard('A bound session', run.bound)}${theftCard('An ordinary session', run.ordinary)}</div>`}
</section>`

export interface Lab {
  /** The name of the customer, or `undefined` for a visitor. */
  readonly customer: string | undefined
  readonly runs: Readonly<Record<ExperimentName, Run | undefined>>
  readonly theft: TheftRun | undefined
}

/** The user of the experiments, if the visitor is not signed in. */
export const DEMO_USER = 'Ada'

export const labPage = ({ customer, runs, theft: stolen }: Lab): Html => {
  const user = customer ?? DEMO_USER
  return html`
<p>What happens to a session when two requests of one browser overlap? Press a button. Both requests then run for real, in the
database of this shop: once with keyrow, and once with a store that saves each session as one document.</p>
<p class="soft">${
    customer === undefined
      ? html`The experiments use sessions of an imaginary ${DEMO_USER}. If you <a href="/sign-in">sign in</a>, they use your name.`
      : html`The experiments use sessions of their own with your name, ${customer}. Your own session stays as it is.`
  }</p>
${experiment('tabs', user, runs.tabs)}
${experiment('sign-out', user, runs['sign-out'])}
<p class="key soft"><svg viewBox="0 0 12 12"><rect class="load" width="12" height="12"></rect></svg> loads
<svg viewBox="0 0 12 12"><rect class="work" width="12" height="12"></rect></svg> works
<svg viewBox="0 0 12 12"><rect class="save" width="12" height="12"></rect></svg> saves
<svg viewBox="0 0 12 12"><rect class="failed" width="12" height="12"></rect></svg> is refused</p>
${theft(user, stolen)}
<h2>The rows of your own session</h2>
<p>They are read anew every two seconds. <a href="/">Add something to your cart</a> in another tab, and watch them.</p>
<iframe src="/lab/rows" title="The rows of your session, live"></iframe>`
}
