-- One row per row of a.{table} that b.{table} has in the very same form, but with a sample whose text is another.
with same as (
  select *
  from a."{table}"
  where ({of_retold}) and hash({compared}) not in (select hash({compared}) from rows_a)
)
select
  (select coalesce(max(n), 0) from changes) + row_number() over () as n,
  {problem}::varchar as problem_id, {prompt}::varchar as prompt_id, {sample}::varchar as sample_id,
  {rejected}::varchar as rejected_sample_id, {place}::varchar as place, {rank}::integer as rank, {starts}
from same
