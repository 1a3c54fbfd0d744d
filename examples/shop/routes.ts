// The routes of the shop. A handler is a task that returns its answer as a value. If the task returns a `Left`, nothing
// is stored, and `onError` makes the answer.

import type { IncomingMessage, RequestListener } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import {
  currentSession,
  type RequestRejected,
  type Session,
  type SessionError,
  type SessionKey,
  type SessionStore,
  sessionRef,
  sessionSet,
  updateCurrentSession,
  verifyCsrf,
} from 'keyrow'
import { type FlowError, type FlowHandler, returnFrom } from 'keyrow/flow'
import { type SessionListenerOptions, sessionListener } from 'keyrow/node'
import type { Database } from 'keyrow/store'
import { CHECKOUT, checkoutHandler } from './checkout.js'
import { type Answer, onError, page, Refused, readFields, readForm, seeOther, send } from './exchange.js'
import type { Html } from './html.js'
import { type ExperimentName, runExperiment, runKey } from './lab.js'
import { DEMO_USER, type Lab, labPage } from './lab-page.js'
import { runTheft, theftKey } from './lab-theft.js'
import { noteVisitor, pathOf } from './log.js'
import {
  cartPage,
  DEMO_PASSWORD,
  flowsPage,
  framed,
  frontPage,
  orderPage,
  rowsPage,
  sessionPage,
  signInPage,
} from './pages.js'
import type { Payments } from './payments.js'
import {
  cartOf,
  changeInCart,
  customerOf,
  type Line,
  type Name,
  nameOf,
  type Product,
  productOf,
  putIntoCart,
  quantityOf,
  signIn,
  signOut,
  signOutEverywhere,
  takeFromCart,
} from './shop.js'
import { flowRows, orderOf, sessionRows } from './storage.js'

type Task<A> = TE.TaskEither<SessionError | FlowError | RequestRejected | Refused, A>
type Handler = (req: IncomingMessage) => Task<Answer>
/** The handlers of one path, by HTTP method. */
type Route = Readonly<Record<string, Handler>>

/** Returns the shop as a request listener. */
export const shopListener = (
  database: Database,
  payments: Payments,
  options: Omit<SessionListenerOptions, 'onError'>,
): RequestListener => {
  const routes = routesOver(database, payments, options.store)
  return sessionListener({ ...options, onError })((req, res) =>
    pipe(
      handlerOf(routes, req),
      TE.fromEither,
      // A form has to come from a page of the shop.
      TE.chainFirstW(() => verifyCsrf(req)),
      TE.chainFirstW(() =>
        pipe(
          currentSession,
          TE.map(({ id }) => noteVisitor(id)),
        ),
      ),
      TE.chainW((handler) => handler(req)),
      TE.map(send(res)),
    ),
  )
}

const routesOver = (
  database: Database,
  payments: Payments,
  store: SessionStore,
): ReadonlyMap<string, Route> =>
  new Map([
    ['/lab', shows('Two requests, one session', flow(labOf, labPage, TE.right))],
    ['/lab/rows', { GET: liveRows(database) }],
    ['/lab/tabs', runs(database, store, 'tabs')],
    ['/lab/sign-out', runs(database, store, 'sign-out')],
    ['/lab/theft', keeps(theftKey, 'theft', (name) => runTheft(store, name))],
    ['/', shows('Keys, rows and sundries', flow(frontPage, TE.right))],
    ['/cart', shows('Your cart', flow(cartOf, cartPage, TE.right))],
    ['/cart/add', takes(productForm, putIntoCart, '/cart')],
    ['/cart/change', takes(lineForm, changeInCart, '/cart')],
    ['/cart/remove', takes(productForm, takeFromCart, '/cart')],
    ['/sign-in', { ...shows('Sign in', signInOf), POST: flow(readForm(signInForm), TE.chain(enter)) }],
    ['/sign-out', takes(emptyForm, () => signOut, '/')],
    ['/sign-out/everywhere', takes(emptyForm, () => signOutEverywhere, '/')],
    ['/session', shows('Your session, as it is stored', storedRows(database))],
    [CHECKOUT, serves(checkoutHandler(database, payments))],
    ['/order', shows('Your order', storedOrder(database, payments))],
    ['/flows', shows('Your checkouts, as they are stored', storedFlows(database))],
  ])

/** Returns the route of a page. `body` makes the page from the current session. */
const shows = (title: string, body: (session: Session, req: IncomingMessage) => Task<Html>): Route => {
  const handler = (req: IncomingMessage): Task<Answer> =>
    pipe(
      currentSession,
      TE.chainW((session) => body(session, req)),
      TE.chainW(framed(title)),
      TE.map(page),
    )
  return { GET: handler, HEAD: handler }
}

const labOf = (session: Session): Lab => {
  const runOf = (name: ExperimentName) => O.toUndefined(sessionRef(runKey(name))(session))
  return {
    customer: O.toUndefined(customerOf(session)),
    runs: { tabs: runOf('tabs'), 'sign-out': runOf('sign-out') },
    theft: O.toUndefined(sessionRef(theftKey)(session)),
  }
}

const runs = (database: Database, store: SessionStore, name: ExperimentName): Route =>
  keeps(runKey(name), name, (user) => runExperiment(database, store, name, user))

/** Returns the route that runs an experiment of the lab, and keeps the result in the visitor's session. */
const keeps = <A>(key: SessionKey<A>, name: string, run: (user: string) => TE.TaskEither<never, A>): Route =>
  takes(
    emptyForm,
    () =>
      pipe(
        currentSession,
        TE.chainW((session) => run(O.getOrElse((): string => DEMO_USER)(customerOf(session)))),
        TE.chainW((result) => updateCurrentSession(sessionSet(key, result))),
      ),
    `/lab#${name}`,
  )

const liveRows =
  (database: Database): Handler =>
  () =>
    pipe(
      currentSession,
      TE.chainW(({ id }) => sessionRows(database, id)),
      TE.map(flow(rowsPage, page)),
    )

const storedRows =
  (database: Database) =>
  ({ id }: Session): Task<Html> =>
    pipe(sessionRows(database, id), TE.map(sessionPage))

/** Returns the route of a flow. */
const serves = (handler: FlowHandler<SessionError | Refused>): Route => {
  const show: Handler = ({ method = 'GET', url = '/', headers }) =>
    handler({ method, url, headers, body: undefined })
  const answer: Handler = (req) =>
    pipe(
      readFields(req),
      TE.chainW((fields) => {
        const { method = 'POST', url = '/', headers } = req
        return handler({ method, url, headers, body: Object.fromEntries(fields) })
      }),
    )
  return { GET: show, HEAD: show, POST: answer }
}

const queryOf = ({ url = '/' }: IncomingMessage): URLSearchParams =>
  new URL(url, 'http://localhost').searchParams

const signInOf = (_: Session, req: IncomingMessage): Task<Html> => TE.right(signInPage(queryOf(req).get('k')))

const storedOrder =
  (database: Database, payments: Payments) =>
  (session: Session, req: IncomingMessage): Task<Html> => {
    const customer = O.getOrElse(() => '')(customerOf(session))
    return pipe(
      orderOf(database, queryOf(req).get('id') ?? '', customer),
      TE.map((order) => orderPage(order, payments.chargesOf(customer))),
    )
  }

const storedFlows =
  (database: Database) =>
  ({ id }: Session): Task<Html> =>
    pipe(flowRows(database, id), TE.map(flowsPage))

/** Returns the route of a form. `act` gets the parsed fields of the form. */
const takes = <A>(
  parse: (fields: URLSearchParams) => O.Option<A>,
  act: (sent: A) => Task<unknown>,
  next: string,
): Route => ({
  POST: flow(
    readForm(parse),
    TE.chain(act),
    TE.map(() => seeOther(next)),
  ),
})

const handlerOf = (routes: ReadonlyMap<string, Route>, req: IncomingMessage): E.Either<Refused, Handler> => {
  const route = routes.get(pathOf(req))
  if (route === undefined) return E.left(new Refused(404, 'There is no such page.'))
  const handler = route[req.method ?? '']
  return handler === undefined
    ? E.left(new Refused(405, 'That cannot be done here.', { Allow: Object.keys(route).join(', ') }))
    : E.right(handler)
}

const field = (fields: URLSearchParams, name: string): string => fields.get(name) ?? ''

const productForm = (fields: URLSearchParams): O.Option<Product> => productOf(field(fields, 'product'))

const lineForm = (fields: URLSearchParams): O.Option<Line> =>
  pipe(O.Do, O.apS('product', productForm(fields)), O.apS('quantity', quantityOf(field(fields, 'quantity'))))

interface SignIn {
  readonly name: Name
  readonly password: string
  /** The place in the checkout to which the customer returns. */
  readonly k: string | null
}

const signInForm = (fields: URLSearchParams): O.Option<SignIn> =>
  pipe(
    O.Do,
    O.apS('name', nameOf(field(fields, 'name'))),
    O.apS('password', O.fromNullable(fields.get('password'))),
    O.let('k', () => fields.get('k')),
  )

const emptyForm = (): O.Option<void> => O.some(undefined)

const enter = ({ name, password, k }: SignIn): Task<Answer> =>
  password === DEMO_PASSWORD
    ? pipe(
        signIn(name),
        TE.chainW(
          (): Task<{ readonly to: string }> => (k === null ? TE.right({ to: '/' }) : returnFrom(k, name)),
        ),
        TE.map(({ to }) => seeOther(to)),
      )
    : TE.left(new Refused(403, 'That is not the password. It is shown above the form.'))
