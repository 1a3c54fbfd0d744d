// The routes of the shop. A handler is a task that returns its answer as a value. If the task returns a `Left`, nothing
// is stored, and `onError` makes the answer.

import type { IncomingMessage, RequestListener } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { currentSession, type Session, type SessionError } from 'keyrow'
import { type SessionListenerOptions, sessionListener } from 'keyrow/node'
import type { Database } from 'keyrow/store'
import { type Answer, onError, page, pathOf, Refused, readForm, seeOther, send } from './exchange.js'
import type { Html } from './html.js'
import { cartPage, DEMO_PASSWORD, framed, frontPage, sessionPage, signInPage } from './pages.js'
import {
  cartOf,
  changeInCart,
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
import { sessionRows } from './storage.js'

type Task<A> = TE.TaskEither<SessionError | Refused, A>
type Handler = (req: IncomingMessage) => Task<Answer>
/** The handlers of one path, by HTTP method. */
type Route = Readonly<Record<string, Handler>>

/** Returns the shop as a request listener. */
export const shopListener = (
  database: Database,
  options: Omit<SessionListenerOptions, 'onError'>,
): RequestListener => {
  const routes = routesOver(database)
  return sessionListener({ ...options, onError })((req, res) =>
    pipe(
      handlerOf(routes, req),
      TE.fromEither,
      TE.chain((handler) => handler(req)),
      TE.map(send(res)),
    ),
  )
}

const routesOver = (database: Database): ReadonlyMap<string, Route> =>
  new Map([
    ['/', shows('Keys, rows and sundries', flow(frontPage, TE.right))],
    ['/cart', shows('Your cart', flow(cartOf, cartPage, TE.right))],
    ['/cart/add', takes(productForm, putIntoCart, '/cart')],
    ['/cart/change', takes(lineForm, changeInCart, '/cart')],
    ['/cart/remove', takes(productForm, takeFromCart, '/cart')],
    ['/sign-in', { ...shows('Sign in', flow(signInPage, TE.right)), ...takes(signInForm, enter, '/') }],
    ['/sign-out', takes(emptyForm, () => signOut, '/')],
    ['/sign-out/everywhere', takes(emptyForm, () => signOutEverywhere, '/')],
    ['/session', shows('Your session, as it is stored', storedRows(database))],
  ])

/** Returns the route of a page. `body` makes the page from the current session. */
const shows = (title: string, body: (session: Session) => Task<Html>): Route => {
  const handler = (): Task<Answer> =>
    pipe(currentSession, TE.chainW(body), TE.chainW(framed(title)), TE.map(page))
  return { GET: handler, HEAD: handler }
}

const storedRows =
  (database: Database) =>
  ({ id }: Session): Task<Html> =>
    pipe(sessionRows(database, id), TE.map(sessionPage))

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
  if (handler === undefined)
    return E.left(new Refused(405, 'That cannot be done here.', { Allow: Object.keys(route).join(', ') }))
  return isForeign(req) ? E.left(new Refused(403, 'That form was sent from elsewhere.')) : E.right(handler)
}

// With `SameSite=Lax` browsers do not send the cookie with forms of other sites. This check also prevents such a form
// from starting a new session.
const isForeign = (req: IncomingMessage): boolean =>
  req.method === 'POST' && /^(cross|same)-site$/.test(String(req.headers['sec-fetch-site']))

const field = (fields: URLSearchParams, name: string): string => fields.get(name) ?? ''

const productForm = (fields: URLSearchParams): O.Option<Product> => productOf(field(fields, 'product'))

const lineForm = (fields: URLSearchParams): O.Option<Line> =>
  pipe(O.Do, O.apS('product', productForm(fields)), O.apS('quantity', quantityOf(field(fields, 'quantity'))))

interface SignIn {
  readonly name: Name
  readonly password: string
}

const signInForm = (fields: URLSearchParams): O.Option<SignIn> =>
  pipe(
    O.Do,
    O.apS('name', nameOf(field(fields, 'name'))),
    O.apS('password', O.fromNullable(fields.get('password'))),
  )

const emptyForm = (): O.Option<void> => O.some(undefined)

const enter = ({ name, password }: SignIn): Task<Session> =>
  password === DEMO_PASSWORD
    ? signIn(name)
    : TE.left(new Refused(403, 'That is not the password. It is shown above the form.'))
