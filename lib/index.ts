// Exports the face in functional style: sessions, typed keys, the current session, sign-in, events and errors.

export { currentProof, type Proof, requireProof } from './bound/current-proof.js'
export {
  DecodeError,
  DriverError,
  EncodeError,
  isSessionError,
  KeyNotLoaded,
  NoCurrentSession,
  ProofRequired,
  SaveConflict,
  SchemaMismatch,
  SessionClosed,
  type SessionError,
  SessionGone,
} from './core/errors.js'
export type { Json } from './core/json.js'
export { type SessionKey, sessionKey } from './core/key.js'
export type { ActiveRecord } from './core/session.js'
export type { SessionId } from './core/token.js'
export { sessionDel, sessionRef, sessionRefStrict, sessionSet, sessionUpdate } from './core/values.js'
export {
  type Device,
  type Flash,
  sessionClearFlashes,
  sessionFlash,
  sessionFlashes,
  sessionFor,
  sessionPrincipal,
  signedInWithin,
} from './core/well-known-keys.js'
export { verifyCsrf } from './http/csrf.js'
export { RequestRejected } from './http/errors.js'
export {
  csrfToken,
  destroySessionsOf,
  flash,
  type ListedSession,
  limitSessionsOf,
  resetSession,
  type SignInOptions,
  sessionsOf,
  signIn,
  signOut,
  takeFlashes,
} from './request/sign-in.js'
export {
  buildSession,
  destroySession,
  type LoadOptions,
  loadCurrentKeys,
  loadKeys,
  loadSession,
  refreshSession,
  rotateSession,
  saveSession,
  sessionToken,
} from './request/verbs.js'
export {
  callWithSession,
  currentSession,
  updateCurrentSession,
  type WithSessionOptions,
  withSession,
} from './request/with-session.js'
export type { Session, SessionStore } from './store/contract.js'
export {
  onSessionEvent,
  type ProofRefusal,
  type SessionEventName,
  type SessionEvents,
} from './store/events.js'
