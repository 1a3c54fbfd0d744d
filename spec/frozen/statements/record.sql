-- keyrow.note.by.owner
select "00 keys".n::float8 as "00 ordinal", "keyrow"."note"."id"::text as "0 keyrow note", "keyrow"."note"."owner"::text as "1 keyrow note", "keyrow"."note"."title"::text as "2 keyrow note"
from unnest((select $1::text::int8[])) with ordinality as "00 keys" (k0, n)
join "keyrow"."note" on "keyrow"."note"."owner" = "00 keys".k0
where (select clock_timestamp() is not null)
order by "00 keys".n, "keyrow"."note"."id"
-- plan:
--   Incremental Sort
--     InitPlan 1: Result
--     InitPlan 2: Result
--     Result
--       Nested Loop Inner
--         Function Scan on unnest
--         Index Scan using note_owner_idx on note

-- keyrow.note.find
select "keyrow"."note"."id"::text as "0 keyrow note", "keyrow"."note"."owner"::text as "1 keyrow note", "keyrow"."note"."title"::text as "2 keyrow note"
from "keyrow"."note"
where "keyrow"."note"."id" = $1::text::int8 and clock_timestamp() is not null
-- plan:
--   Index Scan using note_pkey on note

-- keyrow.note.findMany
select "00 keys".n::float8 as "00 ordinal", r.*
from unnest((select $1::text::int8[])) with ordinality as "00 keys" (k0, n) cross join lateral (
  select "keyrow"."note"."id"::text as "0 keyrow note", "keyrow"."note"."owner"::text as "1 keyrow note", "keyrow"."note"."title"::text as "2 keyrow note" from "keyrow"."note" where "keyrow"."note"."id" = "00 keys".k0 limit 1
) as r
where (select clock_timestamp() is not null)
-- plan:
--   Result
--     InitPlan 1: Result
--     InitPlan 2: Result
--     Nested Loop Inner
--       Function Scan on unnest
--       Limit
--         Index Scan using note_pkey on note

-- keyrow.note.lock
select "keyrow"."note"."id"::text as "0 keyrow note", "keyrow"."note"."owner"::text as "1 keyrow note", "keyrow"."note"."title"::text as "2 keyrow note"
from "keyrow"."note"
where "keyrow"."note"."id" = $1::text::int8 and clock_timestamp() is not null
for update
-- plan:
--   LockRows
--     Index Scan using note_pkey on note

-- keyrow.note.set.title
update "keyrow"."note"
set "title" = $2::text::text
where "keyrow"."note"."id" = $1::text::int8
returning "keyrow"."note"."id"::text as "0 keyrow note", "keyrow"."note"."owner"::text as "1 keyrow note", "keyrow"."note"."title"::text as "2 keyrow note"
-- plan:
--   Update on note
--     Index Scan using note_pkey on note

-- keyrow.note.swap.title
update "keyrow"."note"
set "title" = $2::text::text
where "keyrow"."note"."id" = $1::text::int8 and ("keyrow"."note"."title"::text)::text collate "C" is not distinct from $3::text
returning "keyrow"."note"."id"::text as "0 keyrow note", "keyrow"."note"."owner"::text as "1 keyrow note", "keyrow"."note"."title"::text as "2 keyrow note"
-- plan:
--   Update on note
--     Index Scan using note_pkey on note

-- keyrow.tag.through.keyrow.tagged
select "00 keys".n::float8 as "00 ordinal", "keyrow"."tag"."id"::text as "0 keyrow tag", "keyrow"."tag"."name"::text as "1 keyrow tag"
from unnest((select $1::text::int8[])) with ordinality as "00 keys" (k0, n)
join "keyrow"."tagged" on "keyrow"."tagged"."note" = "00 keys".k0
join "keyrow"."tag" on "keyrow"."tag"."id" = "keyrow"."tagged"."tag"
where (select clock_timestamp() is not null)
order by "00 keys".n, "keyrow"."tag"."id"
-- plan:
--   Incremental Sort
--     InitPlan 1: Result
--     InitPlan 2: Result
--     Result
--       Nested Loop Inner
--         Nested Loop Inner
--           Function Scan on unnest
--           Index Only Scan using tagged_pkey on tagged
--         Index Scan using tag_pkey on tag
