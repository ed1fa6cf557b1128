-- One row per row of {table} that came, went or changed. `rows_a` and `rows_b` hold the rows that the other version has
-- not in the very same form; those of one identity are the same row, in turn where there are several.
with old_rows as (
  select *, row_number() over (partition by {identity} order by {rest}) as nth from rows_a
),
new_rows as (
  select *, row_number() over (partition by {identity} order by {rest}) as nth from rows_b
),
matched as (
  select
    case when old.nth is null then 'added' when new.nth is null then 'removed' else 'changed' end as change,
    case when old.nth is not null and new.nth is not null then {whats_new} end as what,
    {newest}
  from old_rows as old
  full join new_rows as new on {same} and old.nth = new.nth
)
select
  row_number() over () as n, change, what, {problem}::varchar as problem_id, {prompt}::varchar as prompt_id,
  {sample}::varchar as sample_id, {rejected}::varchar as rejected_sample_id, {place}::varchar as place,
  {rank}::integer as rank
from matched
