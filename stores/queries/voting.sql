-- One row per (rewards run, setting, k): maj@k, the share of prompts whose majority answer among the first k samples is
-- correct, for every k up to the samples of a prompt. Samples come in the order of their index; ties go to the answer that
-- was given first; a sample without an answer does not vote, nor one whose program came to none (`undecided: …`), and where
-- none votes the majority is not correct. `setting` is the part of sample ids that says how they were drawn. Prompts with
-- fewer than k samples are left out. The 95 % interval is Wilson's. Rewards by votes (rewards_votes) are no gold, and not
-- counted.
-- $run = null: only this run of rewards
with gold as (
  select
    run, sample_id, left(sample_id, length(sample_id) - 14) as asked, left(right(sample_id, 13), 8) as setting,
    verdict = 'correct' as is_right
  from rewards
  where run in (select run from params where section in ('rewards', 'evaluate', 'ppo')) and ($run is null or run = $run)
),
answered as (
  select
    g.run, g.setting, g.asked, g.is_right,
    case when p.extracted not like 'undecided: %' then nullif(coalesce(p.normalised, p.extracted), '') end as answer,
    row_number() over (partition by g.run, g.setting, g.asked order by g.sample_id) as k
  from gold g
  join run_sources e on e."table" = 'rewards' and e.run = g.run and e.input_table = 'predictions'
  join predictions p on p.run = e.input_run and p.sample_id = g.sample_id
),
-- an answer's votes among the first k samples are those at its last one
ballots as (
  select *, count(*) over so_far as votes, min(k) over so_far as first_k, bool_or(is_right) over so_far as is_answer_right
  from answered
  where answer is not null
  window so_far as (partition by run, setting, asked, answer order by k)
),
majorities as (
  select
    a.run, a.setting, a.k,
    max(case when b.votes is not null then {'votes': b.votes, 'first': -b.first_k, 'right': b.is_answer_right} end) over (
      partition by a.run, a.setting, a.asked order by a.k
    ) as majority
  from answered a
  left join ballots b on b.run = a.run and b.setting = a.setting and b.asked = a.asked and b.k = a.k
),
shares as (
  select
    run, setting, k, count(*) as n_prompts, avg(coalesce(majority."right", false)::integer) as share, 1.959964 as z
  from majorities
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
  run, setting, k, n_prompts, round(share, 6) as majority,
  round(greatest(centre - half, 0), 6) as ci_low, round(least(centre + half, 1), 6) as ci_high
from intervals
order by run, setting, k
