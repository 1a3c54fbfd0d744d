// Exports flows in functional style. `keyrow/promise/flow` has the same names for `async` functions.

export {
  FlowBusy,
  FlowChanged,
  type FlowError,
  FlowExpired,
  type FlowExpiredReason,
  FlowFull,
  isFlowError,
} from './errors.js'
export { expressFlow, fastifyFlow, fetchFlow, honoFlow, koaFlow, nodeFlow } from './frameworks.js'
export {
  type Eventually,
  type FlowHandler,
  type FlowOptions,
  type FlowRequest,
  flowHandler,
} from './handler.js'
export { answerByToken, dropFlow, flowsOf, type Returned, type RunningFlow, returnFrom } from './returns.js'
export { type Secret, secretAnswer } from './secret-answer.js'
export {
  type ChosenOf,
  call,
  dispatch,
  type EffectOptions,
  type ErrorOf,
  edit,
  effect,
  effectInTransaction,
  type Flow,
  type FlowDefinition,
  flow,
  forward,
  guard,
  type Html,
  once,
  type Page,
  type Rendered,
  type Reply,
  type Step,
  type Steps,
  type SuspendOptions,
  since,
  suspend,
  type TangentOptions,
  type TransactionOptions,
  tangent,
} from './steps.js'
