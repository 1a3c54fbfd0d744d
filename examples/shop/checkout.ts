// The checkout as a flow. The flow asks for the address, lets the customer sign in, shows the price, and then charges the
// customer once and stores the order once, even if the customer presses the button in several tabs.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as RA from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import { currentSession, type SessionError } from 'keyrow'
import {
  edit,
  effect,
  effectInTransaction,
  type FlowHandler,
  flow,
  flowHandler,
  once,
  type Page,
  type Reply,
  suspend,
  tangent,
} from 'keyrow/flow'
import type { Database } from 'keyrow/store'
import { page, Refused } from './exchange.js'
import type { Html } from './html.js'
import { addressPage, confirmPage, framed } from './pages.js'
import type { Payments } from './payments.js'
import {
  Address,
  type Cart,
  cartOf,
  customerOf,
  emptied,
  Name,
  productOf,
  Quantity,
  totalCents,
} from './shop.js'
import { insertOrder } from './storage.js'

/** The path of the checkout. */
export const CHECKOUT = '/checkout'

const Lines = t.readonlyArray(t.strict({ sku: t.string, quantity: Quantity }))

const Confirmation = t.strict({})

const cartFrom = (lines: t.TypeOf<typeof Lines>): Cart =>
  pipe(
    lines,
    RA.filterMap(({ sku, quantity }) =>
      pipe(
        productOf(sku),
        O.map((product) => ({ product, quantity })),
      ),
    ),
  )

const customerNow = pipe(
  currentSession,
  TE.map((session) => O.toNullable(customerOf(session))),
)

/** Shows the HTML of a page in the shop's frame. */
const shown =
  (title: string, main: (at: Page) => Html) =>
  (at: Page): TE.TaskEither<SessionError, Reply> =>
    pipe(main(at), framed(title), TE.map(page))

/** Returns the checkout. Journals of its versions are in spec/frozen/journals. */
export const checkoutFlow = (database: Database, payments: Payments) =>
  flow({ name: 'checkout', input: Lines, idleMs: 60 * 60_000 }, function* (lines) {
    const cart = cartFrom(lines)
    const cents = totalCents(cart)
    const address = yield* suspend('address', Address, shown('Where to?', addressPage))
    const known = yield* effect('customer', t.union([Name, t.null]), () => customerNow)
    const customer = known ?? (yield* tangent('sign in', Name, (k) => `/sign-in?k=${k}`))
    yield* suspend('confirm', Confirmation, shown('Pay', confirmPage(cart, customer, address)), {
      once: true,
    })
    const charge = yield* once('charge', t.string, (key) => payments.charge(key, customer, cents))
    const order = yield* effectInTransaction(database, 'order', t.string, (tx) =>
      insertOrder(tx, { customer, cents, charge, lines, address }),
    )
    yield* edit('empty the cart', emptied)
    return order
  })

/** Returns the handler of the checkout. */
export const checkoutHandler = (
  database: Database,
  payments: Payments,
): FlowHandler<SessionError | Refused> =>
  flowHandler(checkoutFlow(database, payments), {
    at: CHECKOUT,
    start: () =>
      pipe(
        currentSession,
        TE.map(cartOf),
        TE.filterOrElseW(RA.isNonEmpty, () => new Refused(409, 'Your cart is empty.')),
        TE.map(RA.map(({ product: { sku }, quantity }) => ({ sku, quantity }))),
      ),
    done: (order) => `/order?id=${order}`,
  })
