-- One row per row of a.{table} that b.{table} has in the very same form, but with a sample whose text is another.
select *
from a."{table}"
where ({of_retold}) and hash({compared}) not in (select hash({compared}) from rows_a)
