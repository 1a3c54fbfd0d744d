// Prints spans and metrics as lines for the terminal. A real program sends them to an OpenTelemetry backend instead.

import type { Attributes } from '@opentelemetry/api'
import { DataPointType, type MetricData, type ResourceMetrics } from '@opentelemetry/sdk-metrics'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'

/** Returns a line for each root span and its descendants. */
export const spanLines = (spans: readonly ReadableSpan[]): readonly string[] =>
  spans.filter(({ parentSpanContext }) => parentSpanContext === undefined).flatMap(branch(spans, '  '))

const branch =
  (spans: readonly ReadableSpan[], indent: string) =>
  (span: ReadableSpan): readonly string[] => [
    `${indent}${span.name} ${took(span)} ${written(span.attributes)}`.trimEnd(),
    ...span.events.map(({ name, attributes }) => `${indent}  * ${name} ${written(attributes)}`.trimEnd()),
    ...spans
      .filter(({ parentSpanContext }) => parentSpanContext?.spanId === span.spanContext().spanId)
      .flatMap(branch(spans, `${indent}  `)),
  ]

const took = ({ duration: [seconds, nanoseconds] }: ReadableSpan): string =>
  `${(seconds * 1e3 + nanoseconds / 1e6).toFixed(1)} ms`

const written = (attributes: Attributes = {}): string =>
  Object.entries(attributes)
    .map(([name, value]) => `${name}=${String(value)}`)
    .join(' ')

/** Returns a line for each time series of the latest export. */
export const metricLines = (exports: readonly ResourceMetrics[]): readonly string[] =>
  (exports.at(-1)?.scopeMetrics ?? []).flatMap(({ metrics }) => metrics).flatMap(series)

const series = (metric: MetricData): readonly string[] => {
  const { name, unit } = metric.descriptor
  return values(metric).map(([attributes, value]) =>
    `  ${[name, written(attributes)].filter(Boolean).join(' ')}: ${value} ${unit}`.trimEnd(),
  )
}

const values = (metric: MetricData): readonly (readonly [Attributes, string])[] => {
  switch (metric.dataPointType) {
    case DataPointType.HISTOGRAM:
    case DataPointType.EXPONENTIAL_HISTOGRAM:
      return metric.dataPoints.map(({ attributes, value: { count, sum = 0 } }) => [
        attributes,
        `${String(count)} in ${sum.toFixed(4)}`,
      ])
    default:
      return metric.dataPoints.map(({ attributes, value }) => [attributes, String(value)])
  }
}
