// iron-session keeps the whole session in an encrypted cookie. It has no server, so no server can end a session.

import { sealData, unsealData } from 'iron-session'
import { inGroups, type OpenPeer, type Values } from './peer.js'

const password = 'a password of thirty-two characters or more'

export const ironSession: OpenPeer = async () => {
  const opened = (seal: string) => unsealData<Values>(seal, { password })
  const sealed = (values: Values) => sealData(values, { password })
  return Promise.resolve({
    fill: (count, values) => inGroups(count, () => sealed(values)),
    cycle: async (seal, key, value) => {
      await sealed({ ...(await opened(seal)), [key]: value })
    },
    read: async (seal) => {
      await opened(seal)
    },
    close: () => Promise.resolve(),
  })
}
