-- One row per run of {table}: how many values of {column} are in no run of {target} behind it.
with known as (
  select distinct e.run, t.{key} as id
  from run_sources e
  join "{target}" t on t.run = e.input_run
  where e."table" = '{table}' and e.input_table = '{target}'
)
select f.run, count(*) as n, min(f.{column}) as example
from "{table}" f
anti join known on known.run = f.run and known.id = f.{column}
where f.{column} is not null
group by f.run
order by f.run
