-- One row per (rewards run, setting, k): pass@k, the chance that at least one of k samples of a prompt is correct, for every k
-- up to the samples of a prompt. Of n samples of which c are correct it is estimated without bias by
-- 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1), and then averaged over prompts with at least k. The
-- 95 % interval is the mean ± 1.96 standard errors over prompts. `setting` is the part of sample ids that says how they were
-- drawn. An undecided sample is not correct. Rewards by votes (rewards_votes) are no gold, and not counted.
-- $run = null: only this run of rewards
with prompts_of as (
  select
    run, left(right(sample_id, 13), 8) as setting, left(sample_id, length(sample_id) - 14) as asked,
    count(*) as n, count(*) filter (where verdict = 'correct') as c
  from rewards
  where run in (select run from params where section in ('rewards', 'evaluate', 'ppo')) and ($run is null or run = $run)
  group by all
),
sizes as (
  select run, setting, n, c, count(*) as n_alike from prompts_of group by all
),
estimates as (
  select
    run, setting, k, n_alike,
    case
      when c = 0 then 0.0
      when n - c < k then 1.0
      else 1 - list_aggregate(list_transform(range(n - c + 1, n + 1), lambda i: 1 - k / i), 'product')
    end as passes
  from sizes, unnest(range(1, n + 1)) as drawn(k)
),
sums as (
  select
    run, setting, k, sum(n_alike)::bigint as n_prompts,
    sum(n_alike * passes) / sum(n_alike) as mean, sum(n_alike * passes * passes) as squares
  from estimates
  group by all
),
errors as (
  select *, sqrt(greatest(squares - n_prompts * mean * mean, 0) / (n_prompts - 1) / n_prompts) as error from sums
)
select
  run, setting, k, n_prompts, round(mean, 6) as pass,
  case when n_prompts > 1 then round(greatest(mean - 1.96 * error, 0), 6) end as ci_low,
  case when n_prompts > 1 then round(least(mean + 1.96 * error, 1), 6) end as ci_high
from errors
order by run, setting, k
