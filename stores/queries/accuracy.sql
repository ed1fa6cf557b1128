-- One row per (rewards run, model, temperature): the share of samples that are correct. An undecided verdict (the checker
-- timed out) is not correct, as in the report. The 95 % interval is accuracy ± 1.96 standard errors with samples of one
-- prompt counted as one cluster, since they depend on each other.
-- Rewards by the majority (rewards_votes) are no gold: they are counted only where $run names them.
-- $run = null: only this run of rewards
with judged as (
  select w.run, s.model, s.temperature, left(w.sample_id, length(w.sample_id) - 14) as asked, w.verdict
  from rewards w
  join run_sources e on e."table" = 'rewards' and e.run = w.run and e.input_table = 'samples'
  join samples s on s.run = e.input_run and s.sample_id = w.sample_id
  where w.run = $run or $run is null and w.run not in (
    select run from params where section = 'rewards_votes'
  )
),
prompts_of as (
  select
    run, model, temperature, asked,
    count(*) as n,
    count(*) filter (where verdict = 'correct') as n_correct,
    count(*) filter (where verdict = 'wrong') as n_wrong,
    count(*) filter (where verdict = 'no_answer') as n_no_answer,
    count(*) filter (where verdict = 'undecided') as n_undecided
  from judged
  group by all
),
sums as (
  select
    run, model, temperature,
    count(*) as n_prompts, sum(n)::bigint as n_samples, sum(n_correct)::bigint as n_correct, sum(n_wrong)::bigint as n_wrong,
    sum(n_no_answer)::bigint as n_no_answer, sum(n_undecided)::bigint as n_undecided,
    sum(n_correct) / sum(n) as accuracy,
    sum(n_correct * n_correct)::double as cc, sum(n_correct * n)::double as cn, sum(n * n)::double as nn
  from prompts_of
  group by all
),
errors as (
  select
    *,
    sqrt(n_prompts / (n_prompts - 1) * greatest(cc - 2 * accuracy * cn + accuracy * accuracy * nn, 0)) / n_samples as error
  from sums
)
select
  run, model, temperature, n_prompts, n_samples, n_correct, n_wrong, n_no_answer, n_undecided,
  round(accuracy, 6) as accuracy,
  case when n_prompts > 1 then round(greatest(accuracy - 1.96 * error, 0), 6) end as ci_low,
  case when n_prompts > 1 then round(least(accuracy + 1.96 * error, 1), 6) end as ci_high
from errors
order by run, temperature nulls first, model
