'use server'

// The server actions of the shop. An action changes the current session, which is saved before the browser gets the page.
import { sessionDel, sessionSet, sessionUpdate, signIn, signOut, updateCurrentSession } from 'keyrow/promise'
import { redirect } from 'next/navigation'
import { sessions } from './sessions'

export const add = sessions.action(async (form: FormData) => {
  const sku = String(form.get('sku'))
  await updateCurrentSession(sessionUpdate('cart', (cart) => [...(cart as string[]), sku], []))
  if (sku === 'sold out') throw new Error('this is sold out')
})

export const buy = sessions.action(async () => {
  const session = await sessions.session()
  await updateCurrentSession(sessionSet('order', session.store.get('cart') ?? []))
  await updateCurrentSession(sessionDel('cart'))
  redirect('/order')
})

export const enter = sessions.action(async (form: FormData) => {
  await signIn(String(form.get('user')))
})

export const leave = sessions.action(async () => {
  await signOut()
})
