/** The version of this package: a database is told which release made its tables. */
export const RELEASE = '0.1.0'
