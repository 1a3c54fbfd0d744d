import type { ReactNode } from 'react'
import { cartOf, sessions } from './sessions'

export const metadata = { title: 'Shop' }

export default async function Layout({ children }: { readonly children: ReactNode }) {
  const cart = cartOf(await sessions.session())
  return (
    <html lang="en">
      <body>
        <p id="count">{cart.length}</p>
        {children}
      </body>
    </html>
  )
}
