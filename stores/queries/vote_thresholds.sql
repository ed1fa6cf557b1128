-- One row per (votes run, threshold in tenths): how many prompts have a majority that is so confident, and what pairs_contrast
-- would make of them, one pair per prompt. With gold rewards of the samples (never those of rewards_votes), the shares of
-- majorities that are right, of pairs whose chosen side is, of rejected weak answers that are wrong, and of wrong ones
-- among the samples from which a chosen weak answer's opponents are drawn (with no weak model: among all that do not
-- state the majority's answer), on average over prompts. A majority that states no answer is never kept. Whether a
-- sample has a text to train on is not looked at.
-- $run = null: only this run of votes
-- $weak = null: predictions of the weak model; null: no pairs are counted
-- $reject_threshold = 0.8: least confidence to reject the weak answer
with gold as (
  select sample_id, arg_min(verdict, run) = 'correct' as is_right
  from rewards
  where verdict <> 'undecided'
    and run in (select run from params where section in ('rewards', 'evaluate'))
  group by sample_id
),
weak_answers as (
  select left(sample_id, 16) as problem_id, min({'sample_id': sample_id, 'answer': normalised}) as first
  from predictions
  where run = $weak
  group by all
),
others as (
  select v.run, v.prompt_id, count(*) as n_others, avg((not g.is_right)::integer) as share_wrong
  from votes v
  join run_inputs e on e."table" = 'votes' and e.run = v.run and e.slot = 'predictions'
  join predictions p on p.run = e.input_run and left(p.sample_id, length(p.sample_id) - 14) = v.prompt_id
  left join gold g on g.sample_id = p.sample_id
  where p.normalised is distinct from v.answer
  group by all
),
thresholds as (
  select i / 10 as threshold from range(11) as tenths(i)
),
judged as (
  select
    v.run, v.confidence, v.answer is not null as states,
    majority.is_right,
    w.first.answer = v.answer and o.n_others is not null as is_weak_chosen,
    w.first.answer is distinct from v.answer and v.confidence >= $reject_threshold and w.problem_id is not null
      as is_weak_rejected,
    not of_weak.is_right as is_weak_wrong,
    o.share_wrong
  from votes v
  left join others o on o.run = v.run and o.prompt_id = v.prompt_id
  left join gold majority on majority.sample_id = v.sample_id
  left join weak_answers w on w.problem_id = v.problem_id
  left join gold of_weak on of_weak.sample_id = w.first.sample_id
  where $run is null or v.run = $run
)
select
  run, threshold,
  count(*) as n_prompts,
  count(*) filter (where kept) as n_kept,
  count(is_right) filter (where kept) as n_judged,
  round(avg(is_right::integer) filter (where kept), 6) as share_right,
  case when $weak is not null then count(*) filter (where kept and is_weak_chosen) end as n_weak_chosen,
  case when $weak is not null then count(*) filter (where kept and is_weak_rejected) end as n_weak_rejected,
  round(avg(is_right::integer) filter (where kept and (is_weak_chosen or is_weak_rejected)), 6) as share_chosen_right,
  round(avg(is_weak_wrong::integer) filter (where kept and is_weak_rejected), 6) as share_weak_rejected_wrong,
  round(avg(share_wrong) filter (where kept and ($weak is null or is_weak_chosen)), 6) as share_others_wrong
from (select *, states and confidence >= threshold as kept from judged cross join thresholds)
group by run, threshold
order by run, threshold
