// The common part of the small shops of all frameworks. Its functions use the current session, so they need no request
// as a parameter.
import { memoryStore } from 'keyrow/memory'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import {
  batched,
  cached,
  csrfToken,
  currentSession,
  sessionFlash,
  sessionPrincipal,
  sessionRef,
  sessionStore,
  sessionUpdate,
  takeFlashes,
  updateCurrentSession,
} from 'keyrow/promise'
import postgres from 'postgres'

const { DATABASE_URL: url, PORT = '3000' } = process.env

export const port = Number(PORT)

/** The store is in PostgreSQL if `DATABASE_URL` is set, and otherwise in memory. */
export const store = url
  ? batched(cached(sessionStore(postgresDatabase(() => postgres(url, { ...poolOptions, max: 5 })))))
  : memoryStore()

const escaped = (text: string): string =>
  text.replace(/[&<>"']/g, (found) => `&#${String(found.charCodeAt(0))};`)

const form = (action: string, token: string, inside: string): string =>
  `<form method="post" action="${action}"><input type="hidden" name="csrf" value="${token}">${inside}</form>`

export const page = async (): Promise<string> => {
  const token = await csrfToken()
  const messages = await takeFlashes()
  const session = await currentSession()
  const user = sessionRef(sessionPrincipal)(session)
  const cart = sessionRef('cart', [])(session) as readonly string[]
  return `<!doctype html><html lang="en"><title>Shop</title>
<p id="user">${user === undefined ? 'Nobody is signed in.' : `Hello ${escaped(user)}.`}</p>
${messages.map(({ text }) => `<p class="message">${escaped(text)}</p>`).join('')}
<ul id="cart">${cart.map((item) => `<li>${escaped(item)}</li>`).join('')}</ul>
${form('/add', token, '<input name="item"><button id="add">Add</button>')}
${form('/in', token, '<input name="user"><button id="in">Sign in</button>')}
${form('/out', token, '<button id="out">Sign out</button>')}`
}

export const add = async (item: string): Promise<void> => {
  await updateCurrentSession(sessionUpdate('cart', (cart) => [...(cart as readonly string[]), item], []))
  await updateCurrentSession(sessionFlash('info', `${item} is in your cart.`))
}
