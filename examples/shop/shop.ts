// The products of the shop, and the shop's data in a session. Pure functions read and edit these data with typed keys.
// The tasks at the end of the file apply these functions to the current session.

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

/** The quantity of one product in a cart, from 1 to 99. A product with a quantity of 0 is not in the cart. */
export const Quantity = t.brand(
  t.number,
  (n): n is t.Branded<number, QuantityBrand> => Number.isInteger(n) && n >= 1 && n <= MOST,
  'Quantity',
)
export type Quantity = t.TypeOf<typeof Quantity>

interface NameBrand {
  readonly Name: unique symbol
}

/** The name of a customer. It has 1 to 40 characters, and does not begin or end with a space. */
export const Name = t.brand(
  t.string,
  (text): text is t.Branded<string, NameBrand> => text === text.trim() && /^\P{Cc}{1,40}$/u.test(text),
  'Name',
)
export type Name = t.TypeOf<typeof Name>

const NonEmpty = t.refinement(t.string, (text) => /^\P{Cc}{1,100}$/u.test(text.trim()), 'a line of text')

/** The address to which an order is sent. `t.strict` drops all other fields of the form. */
export const Address = t.strict({ name: NonEmpty, street: NonEmpty, city: NonEmpty })
export type Address = t.TypeOf<typeof Address>

/** Returns the product with this `sku`, or `None`. */
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

// Each product in the cart has its own key. A save writes only the changed keys. So if two tabs add different products
// at the same time, the cart has both products.
const quantityKey = ({ sku }: Product): SessionKey<Quantity> => sessionKey(`cart/${sku}`, Quantity)

/** The owner of the session. After the sign-in the owner is the customer. */
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
 * Adds one item of a product, if the cart has fewer than 99. With `sessionUpdate` both items count if two tabs add the
 * same product at the same time.
 */
const withOneMore = (product: Product): Change => sessionUpdate(quantityKey(product), oneMore)

const oneMore: (quantity: O.Option<Quantity>) => Quantity = flow(
  O.getOrElse(() => 0),
  (quantity) => Math.min(quantity + 1, MOST) as Quantity,
)

const without: (product: Product) => Change = flow(quantityKey, sessionDel)

/** Removes all products from the cart. */
export const emptied: Change = (session) =>
  pipe(
    products,
    RA.reduce(session, (rest, product) => without(product)(rest)),
  )

// These tasks use the current session, so no caller has to pass the session.

type Task<A> = TE.TaskEither<SessionError, A>

export const putIntoCart: (product: Product) => Task<Session> = flow(withOneMore, updateCurrentSession)

export const changeInCart: (line: Line) => Task<Session> = ({ product, quantity }) =>
  updateCurrentSession(withQuantity(product, quantity))

export const takeFromCart: (product: Product) => Task<Session> = flow(without, updateCurrentSession)

/** Gives the session an owner and a new secret. A token from before the sign-in then no longer opens the session. */
export const signIn = (name: Name): Task<Session> =>
  pipe(updateCurrentSession(sessionFor(name)), TE.chainW(rotateSession))

/** Deletes the session with all its rows, including the cart. */
export const signOut: Task<void> = pipe(currentSession, TE.chainW(destroySession))

/** Deletes all sessions of the customer, in all browsers. For a visitor who is not signed in this task does nothing. */
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
