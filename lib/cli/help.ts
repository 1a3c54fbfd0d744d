// What `--help` prints.
export const HELP = `Usage: keyrow VERB [options]

  schema status         the version of the tables, and who made them
  schema print          the SQL that makes them; needs no database
    --from N              the SQL that upgrades them from version N
  schema upgrade        makes the tables, or upgrades them
  collect               deletes expired sessions, in batches
    --batch N             sessions in one batch (default: 200)
    --pause MS            the least pause between two batches (default: 20)
    --within SECONDS      no batch begins later than this (default: 600)
  move --from TABLE     takes over the sessions of connect-pg-simple, beside live traffic
    --idle SECONDS        the lifetimes of the program's store, which have
    --absolute SECONDS    to be said
    --batch N             sessions in one batch (default: 200)
  sessions [PRINCIPAL]  the newest live sessions: of all, or of one principal
    --limit N             at most so many (default: 50)
  show ID               one session: its times, and its keys with their sizes
    --values              the values too
  end ID                ends one session,
  end --principal P     all of a principal,
  end --all             or all there are; asks first
    --batch N             sessions in one batch (default: 200)
    --yes                 does not ask
  doctor                checks the connection, the clock, the schema and its indexes,
                        the collection of garbage; and measures the tables

Which database:
  --url URL             postgres://user@host/database (default: DATABASE_URL)
  --directory DIR       a directory of PGlite, instead
  --schema NAME         the schema of the tables (default: keyrow)

  --timeout MS          how long one statement may take (default: 30000; for
                        schema upgrade: an hour)
  --json                data and errors as JSON, each in one line
  --help, --version

Exit codes:
  0    done
  1    the database could not be reached, or failed
  2    the arguments make no sense, or a question could not be asked
  3    there is no such session (show ID, end ID)
  4    the schema is not of the version that this release works with
  5    doctor found a problem
  130  ended by Ctrl-C (143: by SIGTERM), or the answer was no`
