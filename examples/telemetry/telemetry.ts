// Turns keyrow's events into OpenTelemetry spans and metrics. keyrow publishes an event synchronously, in the async
// context of its operation. So the active span in a listener is the parent of the operation's span.

import {
  type Attributes,
  type AttributeValue,
  type BatchObservableCallback,
  type Meter,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import { onSessionEvent, type SessionEventName, type SessionEvents } from 'keyrow'
import type { WriteBehindStore } from 'keyrow/store'

export interface Instruments {
  readonly tracer: Tracer
  readonly meter: Meter
}

type Stop = () => void

/** Turns events into spans and metrics. The returned function removes the listeners. */
export const instrument = ({ tracer, meter }: Instruments): Stop => {
  const stops = [...timedSpans(tracer), ...spanEvents(), ...durations(meter), ...counters(meter)]
  return () => {
    for (const stop of stops) stop()
  }
}

/** Maps each event with a duration to the name of its operation in the event `failed`. */
const operations = {
  created: 'create',
  loaded: 'load',
  saved: 'save',
  rotated: 'rotate',
  destroyed: 'destroy',
  expiredDeleted: 'cleanup',
  upgraded: 'upgrade',
} as const satisfies Partial<Record<SessionEventName, string>>

const timed = Object.keys(operations) as readonly (keyof typeof operations)[]

/**
 * keyrow publishes an event at the end of its operation. So the start of the span is computed from the event's
 * duration.
 */
const timedSpans = (tracer: Tracer): readonly Stop[] =>
  timed.map((name) =>
    onSessionEvent(name, ({ durationMs, ...about }) => {
      const end = performance.now()
      const startTime = end - durationMs
      tracer.startSpan(`keyrow.${operations[name]}`, { startTime, attributes: named(about) }).end(end)
    }),
  )

/** An event without a duration becomes an event of the active span, if a span is active. */
const spanEvents = (): readonly Stop[] =>
  (['conflict', 'expired', 'badToken', 'failed'] as const).map((name) =>
    onSessionEvent(name, (event) => trace.getActiveSpan()?.addEvent(`keyrow.${name}`, named(event))),
  )

/**
 * Returns the fields of an event as attributes of a span. An event contains no secrets, so a span may have all its
 * fields.
 */
const named = (about: Readonly<Record<string, AttributeValue | undefined>>): Attributes =>
  Object.fromEntries(Object.entries(about).map(([field, value]) => [`keyrow.${field}`, value]))

// The bounds are in seconds, as OpenTelemetry's conventions require. The default bounds are meant for milliseconds.
const bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

const durations = (meter: Meter): readonly Stop[] => {
  const histogram = meter.createHistogram('keyrow.operation.duration', {
    description: 'How long operations took that succeeded',
    unit: 's',
    advice: { explicitBucketBoundaries: bounds },
  })
  return timed.map((name) =>
    onSessionEvent(name, ({ durationMs }) =>
      histogram.record(durationMs / 1000, { 'keyrow.operation': operations[name] }),
    ),
  )
}

/**
 * Adds listeners that count events. An id must not be an attribute of a metric, because each id would be a new
 * time series.
 */
const counters = (meter: Meter): readonly Stop[] => {
  const count = counting(meter)
  return [
    count('keyrow.conflicts', '{conflict}', 'conflict', ({ what }) => [1, { 'keyrow.what': what }]),
    count('keyrow.bad_tokens', '{token}', 'badToken', ({ reason }) => [1, { 'keyrow.reason': reason }]),
    count('keyrow.expired', '{token}', 'expired', () => [1]),
    count('keyrow.failures', '{failure}', 'failed', (event) => [1, failure(event)]),
    count('keyrow.save.rounds', '{round}', 'saved', ({ rounds }) => [rounds]),
    count('keyrow.expiredDeleted', '{session}', 'expiredDeleted', ({ sessions }) => [sessions]),
    count('keyrow.late.stored', '{save}', 'lateStored', ({ saves }) => [saves]),
    count('keyrow.late.dropped', '{save}', 'lateDropped', ({ saves }) => [saves]),
    count('keyrow.cache.failures', '{failure}', 'cacheFailed', ({ operation, kind }) => [
      1,
      { 'keyrow.operation': operation, 'error.type': kind },
    ]),
  ]
}

/** Makes metrics of the late saves of a `writeBehind` store that are not stored yet: their number, and the oldest age. */
export const watchBacklog = (meter: Meter, { backlog }: Pick<WriteBehindStore, 'backlog'>): Stop => {
  const saves = meter.createObservableGauge('keyrow.late.backlog', { unit: '{save}' })
  const age = meter.createObservableGauge('keyrow.late.age', { unit: 's' })
  const observe: BatchObservableCallback = (result) => {
    const { saves: count, ageMs } = backlog()
    result.observe(saves, count)
    result.observe(age, ageMs / 1000)
  }
  meter.addBatchObservableCallback(observe, [saves, age])
  return () => meter.removeBatchObservableCallback(observe, [saves, age])
}

const counting =
  (meter: Meter) =>
  <N extends SessionEventName>(
    metric: string,
    unit: string,
    event: N,
    add: (event: SessionEvents[N]) => readonly [number, Attributes?],
  ): Stop => {
    const counter = meter.createCounter(metric, { unit })
    return onSessionEvent(event, (published) => counter.add(...add(published)))
  }

/** Returns the attributes of a failed operation. `error.type` is a name of OpenTelemetry's conventions. */
const failure = ({ operation, error, sqlState }: SessionEvents['failed']): Attributes => ({
  'keyrow.operation': operation,
  'error.type': error,
  ...(sqlState === undefined ? {} : { 'db.response.status_code': sqlState }),
})
