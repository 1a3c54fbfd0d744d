// PostgreSQL's text of dates and times as a `Date`, to the millisecond. `infinity` is the number. Text of another style
// than ISO (a setting of the role) stays text: it may mean two dates.

const TIME =
  /^(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?( BC)?$/

type Parts = readonly [year: number, month: number, day: number, hour: number, minute: number, second: number]

interface Time {
  readonly parts: Parts
  readonly millisecond: number
  /** East of Greenwich, in seconds. */
  readonly offset: number
}

const timeOf = (text: string): Time | number | string => {
  if (text === 'infinity') return Number.POSITIVE_INFINITY
  if (text === '-infinity') return Number.NEGATIVE_INFINITY
  const found = TIME.exec(text)
  if (found === null) return text
  const number = (index: number): number => Number(found[index] ?? 0)
  const year = found[12] === undefined ? number(1) : 1 - number(1)
  const offset = (number(9) * 60 + number(10)) * 60 + number(11)
  return {
    parts: [year, number(2) - 1, number(3), number(4), number(5), number(6)],
    millisecond: Number((found[7] ?? '').padEnd(3, '0').slice(0, 3)),
    offset: found[8] === '-' ? -offset : offset,
  }
}

type Value = Date | number | string

const made =
  (make: (time: Time) => Date) =>
  (text: string): Value => {
    const time = timeOf(text)
    return typeof time === 'object' ? make(time) : time
  }

// Not `Date.UTC(year, …)`, nor `new Date(year, …)`, to which the years from 0 to 99 are of the twentieth century.
const inUtc = ({ parts: [year, month, day, hour, minute, second], millisecond }: Time): Date => {
  const date = new Date(0)
  date.setUTCFullYear(year, month, day)
  date.setUTCHours(hour, minute, second, millisecond)
  return date
}

/** Midnight in UTC. */
export const dateOf = made(inUtc)

export const momentOf = made((time) => new Date(inUtc(time).getTime() - time.offset * 1000))

/** A time without a zone is one of the process's own. */
export const localTimeOf = made(({ parts: [year, month, day, hour, minute, second], millisecond }) => {
  const date = new Date(2000, 0, 1)
  date.setFullYear(year, month, day)
  date.setHours(hour, minute, second, millisecond)
  return date
})
