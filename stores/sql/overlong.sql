-- One row per run of {table}: how many spans end after the text of their sample.
with lengths as (
  select e.run, s.sample_id, max(s.n_chars) as n_chars
  from run_sources e
  join samples s on s.run = e.input_run
  where e."table" = '{table}' and e.input_table = 'samples'
  group by all
)
select f.run, count(*) as n, min(f.{column}) as example
from "{table}" f
join lengths on lengths.run = f.run and lengths.sample_id = f.{column}
where f.{end} > lengths.n_chars
group by f.run
order by f.run
