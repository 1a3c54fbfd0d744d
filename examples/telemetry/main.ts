// Runs a few requests, each with a span. keyrow's operations appear as child spans and as metrics. Run it with
// `npm run build && npm run build:examples && node build/examples/telemetry/main.js`.

import { context, trace } from '@opentelemetry/api'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { pgliteDatabase } from 'keyrow/pglite'
import { closeDatabase, sessionStore } from 'keyrow/promise'
import { asyncContext } from './context.js'
import { metricLines, spanLines } from './lines.js'
import { visit } from './scenario.js'
import { instrument } from './telemetry.js'

const spans = new InMemorySpanExporter()
const traces = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] })
const metrics = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
const meters = new MeterProvider({ readers: [new PeriodicExportingMetricReader({ exporter: metrics })] })

context.setGlobalContextManager(asyncContext())
trace.setGlobalTracerProvider(traces)
const tracer = trace.getTracer('shop')
const stop = instrument({ tracer: trace.getTracer('keyrow'), meter: meters.getMeter('keyrow') })

const database = pgliteDatabase()
await visit(sessionStore(database), tracer)
await closeDatabase(database)
stop()

await meters.forceFlush()
console.log('Spans:')
for (const line of spanLines(spans.getFinishedSpans())) console.log(line)
console.log('Metrics:')
for (const line of metricLines(metrics.getMetrics())) console.log(line)
await Promise.all([traces.shutdown(), meters.shutdown()])
