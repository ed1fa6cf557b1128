-- One row per (stage, run, table): how many rows a run of a stage kept, how many candidates it dropped, and why, the most
-- frequent reason first. Runs are in the order in which they are made from each other.
-- $stage = null: only this stage
-- $run = null: only runs of this name
with recursive depths as (
  select distinct "table", run, 0 as depth from run_inputs
  union
  select i."table", i.run, d.depth + 1
  from run_inputs i
  join depths d on d."table" = i.input_table and d.run = i.input_run
),
depth_of as (
  select "table", run, max(depth) + 1 as depth from depths group by all
),
reasons as (
  select stage, run, sum(n)::bigint as dropped, string_agg(reason || ' ' || n, ', ' order by n desc, reason) as reasons
  from funnel
  where "table" is null
  group by all
)
select kept.stage, kept.run, kept."table", kept.n as kept, coalesce(dropped, 0) as dropped, reasons
from funnel as kept
left join reasons using (stage, run)
left join depth_of on depth_of."table" = kept."table" and depth_of.run = kept.run
where kept."table" is not null
  and ($stage is null or kept.stage = $stage)
  and ($run is null or kept.run = $run)
order by coalesce(depth, 0), kept.stage, kept.run, kept."table"
