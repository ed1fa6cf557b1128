-- One row per (step_labels run, labeler) with repeats: how often two labels of one sample by the same labeler agree, on
-- whether a step is wrong and on which one. 1 is a judge that always repeats itself; `n_samples` have at least two labels.
-- $run = null: only this run of step_labels
with labels as (
  select
    run, labeler, kind, sample_id, verdict,
    case verdict when 'error' then 'step ' || first_error else verdict end as outcome
  from step_labels
  where $run is null or run = $run
),
sizes as (
  select run, labeler, kind, sample_id, count(*) as n from labels group by all having count(*) > 1
),
same_outcome as (
  select run, labeler, sample_id, sum(n * (n - 1)) as agreeing, max(n) as most
  from (select run, labeler, sample_id, outcome, count(*) as n from labels group by all)
  group by all
),
same_verdict as (
  select run, labeler, sample_id, sum(n * (n - 1)) as agreeing
  from (select run, labeler, sample_id, verdict, count(*) as n from labels group by all)
  group by all
)
select
  run, labeler, kind,
  count(*) as n_samples,
  sum(n)::bigint as n_labels,
  round(avg(v.agreeing / (n * (n - 1))), 6) as verdict_agreement,
  round(avg(o.agreeing / (n * (n - 1))), 6) as step_agreement,
  round(count(*) filter (where o.most = n) / count(*), 6) as share_unanimous
from sizes
join same_outcome o using (run, labeler, sample_id)
join same_verdict v using (run, labeler, sample_id)
group by run, labeler, kind
order by run, labeler
