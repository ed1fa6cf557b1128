-- One row per row of a.{table} that b.{table} has not, with its columns; and one per row of b.{table} that a.{table}
-- has not, of which only the hash is kept (`other`). Hashed before the join: the hash of a null is not null.
with old as (
  select {columns}, hash({compared}) as h from a."{table}"
),
new as (
  select hash({compared}) as h from b."{table}"
)
select old.* exclude (h), new.h as other
from old
full join new on old.h = new.h
where old.h is null or new.h is null
