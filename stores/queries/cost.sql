-- One row per (stage, run) that cost something: tokens of its samples as the tables have them, what its last execution in
-- this workspace took (`run_costs`), and, for all executions on this machine, what the ledger holds for its settings
-- (`ledger_costs`; runs that share a setting share these). Prices are in dollars; null: not known here.
-- $stage = null: only this stage
with sampled as (
  select
    run,
    count(*) as n_samples,
    sum(n_tokens)::bigint as sample_tokens,
    sum(n_prompt_tokens)::bigint as prompt_tokens,
    count(*) filter (where finish_reason = 'length') as n_truncated
  from samples
  group by run
),
settings as (
  select distinct 'samples' as "table", run, left(right(sample_id, 13), 8) as setting from samples
  union
  select distinct 'step_labels', run, left(ledger_key, 8) from step_labels where ledger_key is not null
),
made as (
  select
    "table", run, sum(completions)::bigint as ledger_completions, sum(ledger_costs.tokens)::bigint as ledger_tokens,
    sum(ledger_costs.device_s) as ledger_device_s, sum(ledger_costs.price_usd) as ledger_price_usd
  from settings
  join ledger_costs using (setting)
  group by all
),
stages as (
  select section as stage, run, max("table") filter (where "table" in ('samples', 'step_labels')) as "table"
  from runs
  where "table" <> 'rejects'
  group by all
  union
  select stage, run, null from run_costs
  where (stage, run) not in (select (section, run) from runs where "table" <> 'rejects')
)
select
  stages.stage, stages.run, n_samples, sample_tokens, prompt_tokens, n_truncated,
  run_costs.tokens, wall_s, cpu_s, device_s, price_usd, price_table, finished_at,
  ledger_completions, ledger_tokens, ledger_device_s, ledger_price_usd
from stages
left join sampled on stages."table" = 'samples' and sampled.run = stages.run
left join made on made."table" = stages."table" and made.run = stages.run
left join run_costs on run_costs.stage = stages.stage and run_costs.run = stages.run
where ($stage is null or stages.stage = $stage)
  and (n_samples is not null or ledger_completions is not null or wall_s is not null)
order by price_usd desc nulls last, sample_tokens desc nulls last, stages.stage, stages.run
