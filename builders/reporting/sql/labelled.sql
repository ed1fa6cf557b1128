-- One row per (step_labels run, kind, outcome): labellings by verdict and by first wrong step, and steps by label.
-- Steps are numbered from 1; the tenth and later ones are one.
with verdicts as (
    select run, 'verdicts' as kind, verdict as outcome, count(*) as n from step_labels group by all
),
marked as (
    select run, unnest(labels) as outcome from step_labels
),
labels as (
    select run, 'labels' as kind, outcome, count(*) as n from marked group by all
),
positions as (
    select
        run, 'first_wrong_step' as kind, if(first_error >= 9, '10+', (first_error + 1)::varchar) as outcome,
        count(*) as n
    from step_labels
    where first_error is not null
    group by all
),
labelers as (
    select run, 'labelers' as kind, labeler as outcome, count(*) as n from step_labels group by all
)
select * from verdicts
union all
select * from labels
union all
select * from positions
union all
select * from labelers
order by run, kind, length(outcome), outcome
