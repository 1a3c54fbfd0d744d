-- old.after
select sid, sess::text as sess, (extract(epoch from expire::timestamptz) * 1000)::float8 as expires
from "keyrow"."old" where sid > $1::text and expire > now() and clock_timestamp() is not null order by sid limit $2::int
-- plan:
--   Limit
--     Index Scan using old_pkey on old

-- old.find
select sid, sess::text as sess, (extract(epoch from expire::timestamptz) * 1000)::float8 as expires
from "keyrow"."old" where sid = $1::text and expire > now() and clock_timestamp() is not null
-- plan:
--   Index Scan using old_pkey on old

-- old.remove
delete from "keyrow"."old" where sid = $1::text
-- plan:
--   Delete on old
--     Index Scan using old_pkey on old

-- old.shorten
update "keyrow"."old" set expire = least(expire, now() + $2::float8 * interval '1 millisecond') where sid = $1::text
-- plan:
--   Update on old
--     Index Scan using old_pkey on old
