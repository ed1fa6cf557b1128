-- One row per (rewards run, setting, band of pass rates): how many prompts have a share of correct samples in that band.
-- `setting` is the part of sample ids that says how they were drawn (an evaluation has two: greedy and sampled). Undecided
-- samples are left out of a prompt's rate; prompts that have no others are counted in a band of their own.
-- Rewards by the majority (rewards_votes) are no gold: they are counted only where $run names them.
-- $run = null: only this run of rewards
-- $by = 'prompt': 'prompt', or 'problem' to put the prompts of a problem together
with bands as (
  from (values
    (0, '0'), (1, '(0, 0.25]'), (2, '(0.25, 0.5]'), (3, '(0.5, 0.75]'), (4, '(0.75, 1)'), (5, '1'), (6, 'undecided')
  ) as listed(number, band)
),
rates as (
  select
    run,
    left(right(sample_id, 13), 8) as setting,
    case $by
      when 'prompt' then left(sample_id, length(sample_id) - 14)
      when 'problem' then left(sample_id, 16)
      else error('by: give ''prompt'' or ''problem''')
    end as asked,
    count(*) filter (where verdict <> 'undecided') as n_decided,
    count(*) filter (where verdict = 'correct') as n_correct
  from rewards
  where run = $run or $run is null and run not in (
    select run from params where section = 'rewards_votes'
  )
  group by all
),
placed as (
  select
    *,
    case
      when n_decided = 0 then 6
      when n_correct = 0 then 0
      when n_correct = n_decided then 5
      else least(ceil(4 * n_correct / n_decided), 4)::integer
    end as number
  from rates
),
totals as (
  select run, setting, count(*) as n_all from placed group by all
)
select
  totals.run, totals.setting, band,
  count(asked) as n,
  round(count(asked) / n_all, 6) as share,
  coalesce(sum(n_decided), 0)::bigint as n_samples
from totals
cross join bands
left join placed on placed.run = totals.run and placed.setting = totals.setting and placed.number = bands.number
group by totals.run, totals.setting, band, bands.number, n_all
having bands.number < 6 or count(asked) > 0
order by totals.run, totals.setting, bands.number
