-- One row per (step_labels run, sample, labeler) that contradicts the checker: the final answer is correct, but a step is
-- said to be wrong, or the answer is wrong and no step is. Those with more labels against the checker come first. Rewards
-- by the majority (rewards_votes) are no checker's.
-- $run = null: only this run of step_labels
-- $kind = null: only labelers of this kind: 'judge', 'human' or 'rule'
-- $limit = 1000: most rows
with labelled as (
  select
    run, sample_id, labeler, kind,
    count(*) as n_labels,
    count(*) filter (where verdict = 'error') as n_error,
    count(*) filter (where verdict = 'no_error') as n_no_error,
    list(first_error order by repeat) filter (where verdict = 'error') as first_errors,
    arg_min(rationale, repeat) as rationale
  from step_labels
  where ($run is null or run = $run) and ($kind is null or kind = $kind)
  group by all
),
sources as not materialized (
  select run, input_table, input_run from run_sources where "table" = 'step_labels'
),
verdicts as (
  select e.run, w.sample_id, min(w.run) as rewards_run, arg_min(w.verdict, w.run) as verdict
  from sources e
  join rewards w on e.input_table = 'rewards' and w.run = e.input_run
  where w.verdict in ('correct', 'wrong')
    and w.run not in (select run from params where section = 'rewards_votes')
  group by all
),
stated as (
  select e.run, p.sample_id, arg_min(p.extracted, p.run) as extracted
  from sources e
  join predictions p on e.input_table = 'predictions' and p.run = e.input_run
  group by all
),
gold as (
  select e.run, a.problem_id, arg_min(a.answer, a.run) as answer
  from sources e
  join answers a on e.input_table = 'answers' and a.run = e.input_run
  group by all
)
select
  run, sample_id, labeler, kind, rewards_run, verdict as checker_verdict, extracted, answer,
  n_labels, n_error, n_no_error, first_errors, rationale
from labelled
join verdicts using (run, sample_id)
left join stated using (run, sample_id)
left join gold on gold.run = labelled.run and gold.problem_id = left(sample_id, 16)
where if(verdict = 'correct', n_error, n_no_error) > 0
order by if(verdict = 'correct', n_error, n_no_error) / n_labels desc, run, sample_id, labeler
limit $limit
