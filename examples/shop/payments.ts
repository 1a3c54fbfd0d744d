// A stub of a payment service. Like a real service, it charges once for each idempotency key. It counts its charges, so
// that a page can show that there is one.

import * as TE from 'fp-ts/lib/TaskEither.js'

export interface Payments {
  /** Charges a customer, and returns the id of the charge. A second call with the same key charges nothing. */
  readonly charge: (key: string, customer: string, cents: number) => TE.TaskEither<never, string>
  /** Returns the number of charges of a customer. */
  readonly chargesOf: (customer: string) => number
}

export const stubPayments = (): Payments => {
  const charges = new Map<string, { readonly id: string; readonly customer: string }>()
  return {
    charge: (key, customer) =>
      TE.fromTask(async () => {
        // A real service answers after some time. Meanwhile other tabs may press the button too.
        await new Promise((resolve) => setTimeout(resolve, 50))
        const charge = charges.get(key) ?? { id: `charge-${charges.size + 1}`, customer }
        charges.set(key, charge)
        return charge.id
      }),
    chargesOf: (customer) => [...charges.values()].filter((charge) => charge.customer === customer).length,
  }
}
