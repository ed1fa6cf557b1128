-- One row per sample whose step labels do not all say the same: repeats of a judge, several people, or several runs of
-- labels, of which those that say the same of one question (judge's answer, or person and repeat) are one label.
-- `agreement` is the share of labels that name the most frequent outcome; the least certain come first.
-- $run = null: only labels of this run of step_labels
-- $limit = 1000: most rows
with labels as (
  select
    sample_id, run, labeler, repeat, ledger_key,
    case verdict when 'error' then 'step ' || first_error when 'no_error' then 'no error' else 'invalid' end as outcome
  from step_labels
  where $run is null or run = $run
),
outcomes as (
  select sample_id, outcome, count(*) as n
  from (select distinct sample_id, labeler, repeat, ledger_key, outcome from labels)
  group by all
),
who as (
  select sample_id, list_sort(list(distinct run)) as runs, list_sort(list(distinct labeler)) as labelers
  from labels
  group by sample_id
),
shares as (
  select
    sample_id, sum(n)::bigint as n_labels, count(*) as n_outcomes, max(n) / sum(n) as agreement, entropy_of,
    string_agg(outcome || ' ' || n, ', ' order by n desc, outcome) as outcomes
  from (
    select *, -sum(n / total * log2(n / total)) over (partition by sample_id) as entropy_of
    from (select *, sum(n) over (partition by sample_id) as total from outcomes)
  )
  group by sample_id, entropy_of
)
select
  sample_id, n_labels, round(agreement, 6) as agreement, round(entropy_of, 6) as entropy, outcomes, labelers, runs
from shares
join who using (sample_id)
where n_outcomes > 1
order by agreement, entropy desc, n_labels desc, sample_id
limit $limit
