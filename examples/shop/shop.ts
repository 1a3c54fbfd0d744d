// The shop itself: what it sells, and what it keeps in a visitor's session. Pure functions over typed keys;
// nothing here waits, or knows of HTTP or SQL. The tasks at the end do the same to the current session.

import { flow, pipe } from 'fp-ts/lib/function.js'
import * as N from 'fp-ts/lib/number.js'
import * as O from 'fp-ts/lib/Option.js'
import * as RA from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import {
  currentSession,
  destroySession,
  destroySessionsOf,
  rotateSession,
  type Session,
  type SessionError,
  type SessionKey,
  sessionDel,
  sessionFor,
  sessionKey,
  sessionPrincipal,
  sessionRef,
  sessionSet,
  sessionUpdate,
  updateCurrentSession,
} from 'keyrow'

export interface Product {
  readonly sku: string
  readonly sign: string
  readonly name: string
  readonly blurb: string
  readonly cents: number
}

export const products: readonly Product[] = [
  { sku: 'key', sign: '🗝️', name: 'Brass key', blurb: 'Opens its own chest, and no other.', cents: 450 },
  { sku: 'ring', sign: '⭕', name: 'Key ring', blurb: 'Holds any number of keys, in no order.', cents: 320 },
  { sku: 'padlock', sign: '🔒', name: 'Iron padlock', blurb: 'Waits for nobody, briefly.', cents: 1290 },
  { sku: 'chest', sign: '🧰', name: 'Oak chest', blurb: 'Keeps what you put into it.', cents: 12900 },
  { sku: 'oar', sign: '🛶', name: 'Ash oar', blurb: 'For one row at a time.', cents: 3900 },
  { sku: 'boat', sign: '🚣', name: 'Rowing boat', blurb: 'Seats four; the oars are extra.', cents: 48900 },
]

interface QuantityBrand {
  readonly Quantity: unique symbol
}

const MOST = 99

/** How many of one product: 1 to 99. None of a product is no row at all. */
export const Quantity = t.brand(
  t.number,
  (n): n is t.Branded<number, QuantityBrand> => Number.isInteger(n) && n >= 1 && n <= MOST,
  'Quantity',
)
export type Quantity = t.TypeOf<typeof Quantity>

interface NameBrand {
  readonly Name: unique symbol
}

/** What a customer is called: 1 to 40 characters, without spaces around them. */
export const Name = t.brand(
  t.string,
  (text): text is t.Branded<string, NameBrand> => text === text.trim() && /^\P{Cc}{1,40}$/u.test(text),
  'Name',
)
export type Name = t.TypeOf<typeof Name>

/** The product, quantity or name that a text stands for. */
export const productOf = (sku: string): O.Option<Product> =>
  pipe(
    products,
    RA.findFirst((product) => product.sku === sku),
  )

export const quantityOf = (digits: string): O.Option<Quantity> =>
  O.fromEither(Quantity.decode(Number(digits)))

export const nameOf = (text: string): O.Option<Name> => O.fromEither(Name.decode(text.trim()))

export interface Line {
  readonly product: Product
  readonly quantity: Quantity
}

export type Cart = readonly Line[]

type Change = (session: Session) => Session

// One key for each product, not one for the whole cart. A save writes only the keys that were changed, so
// two tabs that put different products into the cart at the same moment both keep theirs.
const quantityKey = ({ sku }: Product): SessionKey<Quantity> => sessionKey(`cart/${sku}`, Quantity)

/** Whose session it is: the customer's, from the sign-in on. */
export const customerOf: (session: Session) => O.Option<Name> = flow(
  sessionRef(sessionPrincipal),
  O.chain(nameOf),
)

export const cartOf = (session: Session): Cart =>
  pipe(
    products,
    RA.filterMap((product) =>
      pipe(
        session,
        sessionRef(quantityKey(product)),
        O.map((quantity) => ({ product, quantity })),
      ),
    ),
  )

export const lineCents = ({ product, quantity }: Line): number => product.cents * quantity

export const totalCents: (cart: Cart) => number = RA.foldMap(N.MonoidSum)(lineCents)

export const itemCount: (cart: Cart) => number = RA.foldMap(N.MonoidSum)(({ quantity }: Line) => quantity)

const withQuantity = (product: Product, quantity: Quantity): Change =>
  sessionSet(quantityKey(product), quantity)

/**
 * One more of it; a cart that has 99 of it stays as it is. An update and not a set: of two tabs at once that
 * put the same product into the cart, both count.
 */
const withOneMore = (product: Product): Change => sessionUpdate(quantityKey(product), oneMore)

const oneMore: (quantity: O.Option<Quantity>) => Quantity = flow(
  O.getOrElse(() => 0),
  (quantity) => Math.min(quantity + 1, MOST) as Quantity,
)

const without: (product: Product) => Change = flow(quantityKey, sessionDel)

// From here on: tasks on the current session, which nobody had to hand down to them.

type Task<A> = TE.TaskEither<SessionError, A>

export const putIntoCart: (product: Product) => Task<Session> = flow(withOneMore, updateCurrentSession)

export const changeInCart: (line: Line) => Task<Session> = ({ product, quantity }) =>
  updateCurrentSession(withQuantity(product, quantity))

export const takeFromCart: (product: Product) => Task<Session> = flow(without, updateCurrentSession)

/** The session gets a new secret, so that a token known to others before the sign-in is worth nothing after. */
export const signIn = (name: Name): Task<Session> =>
  pipe(updateCurrentSession(sessionFor(name)), TE.chainW(rotateSession))

/** The session is deleted with all its rows, the cart among them. */
export const signOut: Task<void> = pipe(currentSession, TE.chainW(destroySession))

/** The same for all of the customer's sessions, in whatever browsers they are; for a stranger, nothing. */
export const signOutEverywhere: Task<unknown> = pipe(
  currentSession,
  TE.chainW((session) =>
    pipe(
      customerOf(session),
      O.match(
        () => TE.right([]),
        (name) => destroySessionsOf(session.handle, name),
      ),
    ),
  ),
)
