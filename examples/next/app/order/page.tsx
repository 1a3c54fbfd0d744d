import { sessionRef } from 'keyrow/promise'
import { sessions } from '../sessions'

export default async function Order() {
  const order = sessionRef('order', [])(await sessions.session()) as string[]
  return <p id="order">{order.join(', ')}</p>
}
