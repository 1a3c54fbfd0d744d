// The cart for other programs.
import { sessionUpdate, updateCurrentSession } from 'keyrow/promise'
import { cartOf, sessions } from '../../sessions'

export const GET = sessions.route(async () => Response.json(cartOf(await sessions.session())))

export const POST = sessions.route(async (request) => {
  const { sku } = (await request.json()) as { readonly sku: string }
  const session = await updateCurrentSession(
    sessionUpdate('cart', (cart) => [...(cart as string[]), sku], []),
  )
  return Response.json(cartOf(session))
})
