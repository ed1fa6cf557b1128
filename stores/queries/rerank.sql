-- One row per (scores run, rewards run, setting, k): the share of prompts where the sample that the reward model is surest
-- of, among the first k that state an answer, is correct (`rerank`; ties: lowest index), with Wilson's 95 % interval. Beside
-- it: `weighted`, the answer with the greatest sum of scores; `majority`, that of most samples (both: ties to the answer
-- given first); `any_right`, what no choice among these samples can pass. A sample without a score is not chosen, and weighs
-- nothing; a program that came to no value (`undecided: …`) states no answer. Where no sample qualifies, the prompt is not
-- solved. `setting` is the part of sample ids that says how they were drawn. Prompts with fewer than k samples are left out.
-- Rewards by votes (rewards_votes) are no gold, and not counted.
-- $run = null: only this run of scores
with gold as (
  select
    i.run, w.run as rewards, w.sample_id, left(w.sample_id, length(w.sample_id) - 14) as asked,
    left(right(w.sample_id, 13), 8) as setting, w.verdict = 'correct' as is_right
  from run_inputs i
  join run_sources e on e."table" = 'rewards' and e.input_table = 'samples' and e.input_run = i.input_run
  join rewards w on w.run = e.run
  where
    i."table" = 'scores' and i.slot = 'samples' and ($run is null or i.run = $run)
    and i.run in (select distinct run from scores)
    and w.run in (select run from params where section in ('rewards', 'evaluate', 'ppo'))
),
answered as (
  select
    g.run, g.rewards, g.setting, g.asked, g.is_right, s.score,
    case when p.extracted not like 'undecided: %' then nullif(coalesce(p.normalised, p.extracted), '') end as answer,
    row_number() over (partition by g.run, g.rewards, g.setting, g.asked order by g.sample_id) as k
  from gold g
  join run_sources e on e."table" = 'rewards' and e.run = g.rewards and e.input_table = 'predictions'
  join predictions p on p.run = e.input_run and p.sample_id = g.sample_id
  left join scores s on s.run = g.run and s.sample_id = g.sample_id
),
-- what an answer has among the first k samples is what it has at its last one
ballots as (
  select
    *, sum(score) over so_far as weight, count(*) over so_far as votes, min(k) over so_far as first_k,
    bool_or(is_right) over so_far as is_answer_right
  from answered
  where answer is not null
  window so_far as (partition by run, rewards, setting, asked, answer order by k)
),
chosen as (
  select
    a.run, a.rewards, a.setting, a.k,
    max(case when b.score is not null then {'score': b.score, 'first': -b.k, 'right': b.is_right} end) over so_far
      as surest,
    max(case when b.weight is not null then {'weight': b.weight, 'first': -b.first_k, 'right': b.is_answer_right} end)
      over so_far as heaviest,
    max(case when b.votes is not null then {'votes': b.votes, 'first': -b.first_k, 'right': b.is_answer_right} end)
      over so_far as commonest,
    bool_or(a.is_right) over so_far as is_any_right
  from answered a
  left join ballots b
    on b.run = a.run and b.rewards = a.rewards and b.setting = a.setting and b.asked = a.asked and b.k = a.k
  window so_far as (partition by a.run, a.rewards, a.setting, a.asked order by a.k)
),
shares as (
  select
    run, rewards, setting, k, count(*) as n_prompts, 1.959964 as z,
    avg(coalesce(surest."right", false)::integer) as share,
    avg(coalesce(heaviest."right", false)::integer) as weighted,
    avg(coalesce(commonest."right", false)::integer) as majority,
    avg(is_any_right::integer) as any_right
  from chosen
  group by all
),
intervals as (
  select
    *,
    (share + z * z / (2 * n_prompts)) / (1 + z * z / n_prompts) as centre,
    z / (1 + z * z / n_prompts) * sqrt(share * (1 - share) / n_prompts + z * z / (4 * n_prompts * n_prompts)) as half
  from shares
)
select
  run, rewards, setting, k, n_prompts, round(share, 6) as rerank,
  round(greatest(centre - half, 0), 6) as ci_low, round(least(centre + half, 1), 6) as ci_high,
  round(weighted, 6) as weighted, round(majority, 6) as majority, round(any_right, 6) as any_right
from intervals
order by run, rewards, setting, k
