import { sessionPrincipal, sessionRef } from 'keyrow/promise'
import { add, buy, enter, leave } from './actions'
import { cartOf, sessions } from './sessions'

export default async function Page() {
  const session = await sessions.session()
  return (
    <main>
      <p id="user">{sessionRef(sessionPrincipal, 'Nobody')(session)} is here.</p>
      <ul id="cart">
        {cartOf(session).map((sku, index) => (
          <li key={index}>{sku}</li>
        ))}
      </ul>
      <form action={add}>
        <input name="sku" aria-label="item" />
        <button type="submit" id="add">
          Add
        </button>
      </form>
      <form action={buy}>
        <button type="submit" id="buy">
          Buy
        </button>
      </form>
      <form action={enter}>
        <input name="user" aria-label="name" />
        <button type="submit" id="in">
          Sign in
        </button>
      </form>
      <form action={leave}>
        <button type="submit" id="out">
          Sign out
        </button>
      </form>
    </main>
  )
}
