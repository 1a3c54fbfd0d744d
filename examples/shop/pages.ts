// The pages of the shop. Each page is a pure function of its data. Only the layout reads the current session, for the
// customer's name and the number of items in the cart.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { currentSession, type Session, type SessionError } from 'keyrow'
import type { Page } from 'keyrow/flow'
import type { Row } from 'keyrow/store'
import { document, type Html, html, nothing } from './html.js'
import { item, lastBill } from './log.js'
import {
  type Address,
  type Cart,
  cartOf,
  customerOf,
  itemCount,
  type Line,
  lineCents,
  type Name,
  type Product,
  products,
  totalCents,
} from './shop.js'
import type { Continuation, FlowTree, SessionRows } from './storage.js'

/** The password of every customer. The page shows the password, because the shop is a demonstration. */
export const DEMO_PASSWORD = 'sesame'

const euros = new Intl.NumberFormat('en', { style: 'currency', currency: 'EUR' })

const price = (cents: number): Html => html`<span class="cents">${euros.format(cents / 100)}</span>`

// `framed` reads the current session, so no handler has to pass the session.
export const framed =
  (title: string) =>
  (main: Html): TE.TaskEither<SessionError, string> =>
    pipe(
      currentSession,
      TE.map((session) => document(title, main, { header: banner(session), footer: footer(session) })),
    )

// The footer shows the cost of the last form that the visitor has sent.
const footer = ({ id }: Session): Html => {
  const bill = lastBill(id)
  if (bill === undefined) return nothing
  const { path, ms, statements } = bill
  const rows = statements.reduce((sum, event) => sum + (event.rows?.length ?? 0), 0)
  return html`<footer><details>
<summary>Your last click, <code>${path}</code>, took ${counted(statements.length, 'statement')}, ${counted(rows, 'row')} and ${ms} ms.</summary>
<ul>${statements.map((event) => html`<li><code>${item(event)}</code></li>`)}</ul>
</details></footer>`
}

const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`

const banner = (session: Session): Html => html`<header>
<b>🗝️ keyrow shop</b>
<a href="/lab">Lab</a>
<a href="/">Shop</a>
<a href="/cart">Cart (${pipe(session, cartOf, itemCount)})</a>
<a href="/session">Session</a>
<a href="/flows">Flows</a>
${pipe(
  customerOf(session),
  O.match(() => html`<a href="/sign-in">Sign in</a>`, signedInAs),
)}
</header>`

const signedInAs = (name: Name): Html => html`
<form method="post" action="/sign-out">
<span>${name}</span> <button>Sign out</button> <button formaction="/sign-out/everywhere">Everywhere</button>
</form>`

export const frontPage = (): Html => html`
<p class="soft">As long as you only look around, you get no cookie, and the database no row.</p>
<ul class="grid">${products.map(productCard)}</ul>`

const productCard = ({ sku, sign, name, blurb, cents }: Product): Html => html`
<li>
<span class="sign">${sign}</span>
<strong>${name}</strong>
<p class="soft">${blurb}</p>
<form method="post" action="/cart/add">
<input type="hidden" name="product" value="${sku}">
${price(cents)} <button aria-label="Put into the cart: ${name}">Add to cart</button>
</form>
</li>`

export const cartPage = (cart: Cart): Html =>
  cart.length === 0
    ? html`<p>Your cart is empty. <a href="/">Look around.</a></p>`
    : html`
<ul class="lines">${cart.map(cartLine)}</ul>
<p class="total">Total: <strong>${price(totalCents(cart))}</strong> <a class="button" href="/checkout">Checkout</a></p>`

const cartLine = (line: Line): Html => {
  const { sku, sign, name, cents } = line.product
  return html`
<li>
<span>${sign} <strong>${name}</strong><br>${price(cents)} each</span>
${price(lineCents(line))}
<form method="post" action="/cart/change">
<input type="hidden" name="product" value="${sku}">
<input type="number" name="quantity" value="${line.quantity}" min="1" max="99" required aria-label="Quantity of ${name}">
<button>Change</button>
</form>
<form method="post" action="/cart/remove">
<input type="hidden" name="product" value="${sku}">
<button aria-label="Remove: ${name}">Remove</button>
</form>
</li>`
}

/** The page of the sign-in. `k` is the place in the checkout to which the customer returns. */
export const signInPage = (k: string | null): Html => html`
<p>Any name will do; the password is <code>${DEMO_PASSWORD}</code>.</p>
<form class="stack" method="post" action="/sign-in">
${k === null ? nothing : html`<input type="hidden" name="k" value="${k}">`}
<label>Name <input name="name" required maxlength="40" autocomplete="username"></label>
<label>Password <input name="password" type="password" required autocomplete="off"></label>
<button class="main">Sign in</button>
</form>
<p class="soft">The session gets a new secret: the old cookie opens nothing any more, and your cart stays.</p>`

export const sessionPage = (rows: O.Option<SessionRows>): Html =>
  pipe(
    rows,
    O.match(
      () => html`<p>The database has no row for you, since there is nothing to keep.</p>`,
      ({ header, entries }) => html`
<p>These rows are all that the database keeps for you, beside the hash of your cookie's secret.
A save raises the revision by one, and stamps what it wrote with it.</p>
<h2>keyrow.session</h2>
${columnsOf(header)}
<h2>keyrow.entry</h2>
${table(entries)}`,
    ),
  )

/** The page inside the lab, which the browser reads again and again. */
export const rowsPage = (rows: O.Option<SessionRows>): string =>
  document('Rows', sessionPage(rows), { refreshSeconds: 2 })

const columnsOf = (row: Row): Html => html`
<div class="wide"><table>
${Object.entries(row).map(([column, cell]) => html`<tr><th>${column}</th><td>${String(cell)}</td></tr>`)}
</table></div>`

const table = (rows: readonly Row[]): Html => html`
<div class="wide"><table>
<tr>${Object.keys(rows[0] ?? {}).map((column) => html`<th>${column}</th>`)}</tr>
${rows.map((row) => html`<tr>${Object.values(row).map((cell) => html`<td>${String(cell)}</td>`)}</tr>`)}
</table></div>`

/** What was typed into a field, if the page is shown again. */
const typed = (given: Page['given'], name: string): string => {
  const value = given[name]
  return typeof value === 'string' ? value : ''
}

const problemsOf = (problems: readonly string[]): Html =>
  problems.length === 0 ? nothing : html`<p role="alert">Please fill in each line.</p>`

export const addressPage = ({ url, problems, given }: Page): Html => html`
${problemsOf(problems)}
<form class="stack" method="post" action="${url}">
<label>Name <input name="name" maxlength="100" autocomplete="name" value="${typed(given, 'name')}"></label>
<label>Street <input name="street" maxlength="100" autocomplete="address-line1" value="${typed(given, 'street')}"></label>
<label>City <input name="city" maxlength="100" autocomplete="address-level2" value="${typed(given, 'city')}"></label>
<button class="main">Go on</button>
</form>
<p class="soft">Go back, open this page in a second tab, or reload it: each answer is a row of its own.</p>`

export const confirmPage =
  (cart: Cart, customer: string, { name, street, city }: Address) =>
  ({ url }: Page): Html =>
    html`
<ul class="lines">${cart.map(
      ({ product, quantity }) =>
        html`<li><span>${quantity} × ${product.name}</span>${price(product.cents * quantity)}</li>`,
    )}</ul>
<p class="total">Total: <strong>${price(totalCents(cart))}</strong></p>
<p>To ${name}, ${street}, ${city}. Signed in as ${customer}.</p>
<form method="post" action="${url}"><button class="main">Pay</button></form>
<p class="soft">Press it in ten tabs: you are charged once.</p>`

export const orderPage = (order: O.Option<Row>, charges: number): Html =>
  pipe(
    order,
    O.match(
      () => html`<p>There is no such order.</p>`,
      (row) => html`
<p>Thank you. You were charged ${charges === 1 ? 'once' : html`${charges} times in all`}.</p>
${columnsOf(row)}`,
    ),
  )

export const flowsPage = (flows: readonly FlowTree[]): Html =>
  flows.length === 0
    ? html`<p>You have begun no checkout. <a href="/cart">Your cart</a></p>`
    : html`
<p>Each answer of a checkout is one row of <code>keyrow.continuation</code>, below the row that it answers.
Going back and answering again makes a second branch.</p>
${flows.map(({ name, state, rows }) => html`<h2>${name} <span class="soft">${state}</span></h2>${branches(rows, null)}`)}`

const branches = (rows: readonly Continuation[], parent: string | null): Html => {
  const children = rows.filter((row) => row.parent === parent)
  return children.length === 0
    ? nothing
    : html`<ul class="tree">${children.map(
        ({ id, step, records }) => html`<li><code>${records} → ${step}</code>${branches(rows, id)}</li>`,
      )}</ul>`
}

/** The page for a failed request, which has no session. */
export const failurePage = (message: string): string =>
  document('Sorry', html`<p>${message}</p><p><a href="/">Back to the shop</a></p>`)
