// Runs the example `telemetry` with exporters in memory, and returns the exported data as plain values.

import { channel } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import type { Attributes, HrTime } from '@opentelemetry/api'
import {
  AggregationTemporality,
  DataPointType,
  InMemoryMetricExporter,
  MeterProvider,
  type MetricData,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base'
import { sessionListener } from 'keyrow/node'
import {
  buildSession,
  destroySession,
  loadSession,
  onSessionEvent,
  rotateSession,
  type SessionEventName,
  type SessionStore,
  saveSession,
  sessionSet,
  sessionToken,
  sessionUpdate,
} from 'keyrow/promise'
import type { Test } from 'tap'
import { instrument } from '../../examples/telemetry/telemetry.js'

export const visited = sessionUpdate('visits', (visits) => Number(visits) + 1, 0)

/** Runs most operations on the session `built`, and returns its id. */
export const live = async (store: SessionStore, built = sessionSet('visits', 1)(buildSession(store))) => {
  const created = await saveSession(built)
  const loaded = (await loadSession(store, sessionToken(created))) ?? created
  await saveSession(visited(loaded))
  await saveSession(visited(loaded))
  await rotateSession(created)
  await rotateSession(created).catch(() => undefined)
  await loadSession(store, sessionToken(created))
  await loadSession(store, 'no token')
  await destroySession(created)
  return created.id
}

/** Returns the store with loads that take this many milliseconds longer. */
export const slowToLoad = (store: SessionStore, milliseconds: number): SessionStore => ({
  ...store,
  load: (id, secret) => async () => {
    await delay(milliseconds)
    return store.load(id, secret)()
  },
})

const timed = ['created', 'loaded', 'saved', 'rotated', 'destroyed', 'expiredDeleted', 'upgraded'] as const

const late = ['lateStored', 'lateDropped', 'cacheFailed'] as const

export const everyKind: readonly SessionEventName[] = [
  ...timed,
  ...(['conflict', 'expired', 'badToken', 'failed'] as const),
  ...late,
]

/** Returns the kinds of events that have listeners. */
export const listening = () => everyKind.filter((name) => channel(`keyrow:${name}`).hasSubscribers)

/** Collects the durations of the events, in order, until the end of the test. */
export const durationsTold = (t: Test): readonly number[] => {
  const told: number[] = []
  const stops = timed.map((name) =>
    onSessionEvent(name, ({ durationMs }) => {
      told.push(durationMs)
    }),
  )
  t.teardown(() => {
    for (const stop of stops) stop()
  })
  return told
}

/** Records spans and metrics from now on, until the end of the test at the latest. */
export const recording = (t: Test) => {
  const spans = new InMemorySpanExporter()
  const traces = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] })
  const exported = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const meters = new MeterProvider({ readers: [new PeriodicExportingMetricReader({ exporter: exported })] })
  const tracer = traces.getTracer('spec')
  const stop = instrument({ tracer, meter: meters.getMeter('spec') })
  t.teardown(async () => {
    stop()
    await Promise.all([traces.shutdown(), meters.shutdown()])
  })

  /** Returns the current values of all metrics. */
  const metrics = async (): Promise<readonly MetricData[]> => {
    await meters.forceFlush()
    return (exported.getMetrics().at(-1)?.scopeMetrics ?? []).flatMap(({ metrics }) => metrics)
  }
  const metric = async (name: string) => (await metrics()).find(({ descriptor }) => descriptor.name === name)

  return {
    stop,
    metrics,
    meter: meters.getMeter('spec'),
    spans: () => spans.getFinishedSpans().map(plain(spans.getFinishedSpans())),
    /** Runs `act` as the active span. */
    inSpan: <A>(name: string, act: () => Promise<A>): Promise<A> =>
      tracer.startActiveSpan(name, (span) => act().finally(() => span.end())),
    /** Returns each time series of a metric: its attributes, with the sum or the number of its values. */
    series: async (name: string): Promise<readonly (readonly [Attributes, number])[]> =>
      seriesOf(await metric(name)),
    /** Returns the total duration of all operations. */
    seconds: async (): Promise<number> => sumOf(await metric('keyrow.operation.duration')),
    /** Returns all exported data as text, without the times of the exports. */
    everything: async (): Promise<string> =>
      shown([
        spans.getFinishedSpans(),
        (await metrics()).map((data) => [data.descriptor, seriesOf(data), sumOf(data)]),
      ]),
  }
}

type InSpan = (name: string, act: () => Promise<unknown>) => Promise<unknown>

/**
 * Starts a server whose requests are active spans with the path as their name. `ask` returns the response and its
 * cookie.
 */
export const serving = async (
  store: SessionStore,
  inSpan: InSpan,
  handler: (req: IncomingMessage, res: ServerResponse) => Promise<void>,
) => {
  const listener = sessionListener({ store })(handler)
  const server = createServer((req, res) => {
    void inSpan(req.url ?? '', async () => {
      listener(req, res)
      await once(res, 'close')
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const ask = async (path: string, cookie = '') => {
    const answer = await fetch(`http://127.0.0.1:${String(port)}${path}`, { headers: { cookie } })
    return { id: await answer.text(), cookie: answer.headers.getSetCookie()[0]?.split(';')[0] ?? '' }
  }
  const close = async () => {
    server.close()
    await once(server, 'close')
  }
  return { ask, close }
}

const plain = (all: readonly ReadableSpan[]) => (span: ReadableSpan) => {
  const { name, attributes, parentSpanContext, events, startTime, duration } = span
  const parent = all.find((other) => other.spanContext().spanId === parentSpanContext?.spanId)?.name
  return {
    name,
    parent,
    attributes,
    events: events.map(({ name, attributes = {} }) => [name, attributes] as const),
    startMs: milliseconds(startTime),
    durationMs: milliseconds(duration),
  }
}

const milliseconds = ([seconds, nanoseconds]: HrTime): number => seconds * 1000 + nanoseconds / 1e6

const seriesOf = (metric: MetricData | undefined): readonly (readonly [Attributes, number])[] => {
  if (metric === undefined) return []
  return metric.dataPointType === DataPointType.HISTOGRAM
    ? metric.dataPoints.map(({ attributes, value }) => [attributes, value.count] as const)
    : metric.dataPoints.map(({ attributes, value }) => [attributes, value as number] as const)
}

const sumOf = (metric: MetricData | undefined): number =>
  metric?.dataPointType === DataPointType.HISTOGRAM
    ? metric.dataPoints.reduce((sum, { value }) => sum + (value.sum ?? 0), 0)
    : 0

const shown = (values: unknown): string =>
  inspect(values, { depth: 20, maxArrayLength: null, maxStringLength: null, customInspect: false })
