// The shop's products, and its data in a visitor's session: pure functions on typed keys, without I/O, HTTP or SQL.
// The tasks at the end apply them to the current session.

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

/** The quantity of one product: 1 to 99. A quantity of 0 is no row. */
export const Quantity = t.brand(
  t.number,
  (n): n is t.Branded<number, QuantityBrand> => Number.isInteger(n) && n >= 1 && n <= MOST,
  'Quantity',
)
export type Quantity = t.TypeOf<typeof Quantity>

interface NameBrand {
  readonly Name: unique symbol
}

/** A customer's name: 1 to 40 characters, without spaces around them. */
export const Name = t.brand(
  t.string,
  (text): text is t.Branded<string, NameBrand> => text === text.trim() && /^\P{Cc}{1,40}$/u.test(text),
  'Name',
)
export type Name = t.TypeOf<typeof Name>

/** Parses a product, a quantity or a name. */
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

/** The owner of the session: the customer, from the sign-in on. */
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
 * Adds one; a cart with 99 of the product stays as it is. It is an update and not a set, so that two tabs that add the same
 * product at once both count.
 */
const withOneMore = (product: Product): Change => sessionUpdate(quantityKey(product), oneMore)

const oneMore: (quantity: O.Option<Quantity>) => Quantity = flow(
  O.getOrElse(() => 0),
  (quantity) => Math.min(quantity + 1, MOST) as Quantity,
)

const without: (product: Product) => Change = flow(quantityKey, sessionDel)

// Tasks on the current session. No caller passes it.

type Task<A> = TE.TaskEither<SessionError, A>

export const putIntoCart: (product: Product) => Task<Session> = flow(withOneMore, updateCurrentSession)

export const changeInCart: (line: Line) => Task<Session> = ({ product, quantity }) =>
  updateCurrentSession(withQuantity(product, quantity))

export const takeFromCart: (product: Product) => Task<Session> = flow(without, updateCurrentSession)

/** The session gets a new secret, so that a token that others had before the sign-in opens nothing afterwards. */
export const signIn = (name: Name): Task<Session> =>
  pipe(updateCurrentSession(sessionFor(name)), TE.chainW(rotateSession))

/** Deletes the session with all its rows, the cart included. */
export const signOut: Task<void> = pipe(currentSession, TE.chainW(destroySession))

/** Deletes all sessions of the customer, in all browsers; does nothing for a visitor who is not signed in. */
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
