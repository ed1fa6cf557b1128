-- One row per (stage, run, table or reason): how many rows a run of a stage kept, and how many candidates it dropped and why.
with kept as (
  select section as stage, run, "table", 'kept' as reason, rows as n
  from runs
  where "table" <> 'rejects'
),
dropped as (
  select stage, run, null::varchar as "table", reason, count(*) as n
  from rejects
  group by all
)
select * from kept
union all
select * from dropped
order by stage, run, "table" nulls last, reason
