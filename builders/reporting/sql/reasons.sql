-- One row per (stage, run, outcome): rejects by reason, and the verdicts that a run of rewards or step_labels gave.
with rejected as (
    select stage, run, 'rejects' as kind, reason as outcome, count(*) as n from rejects group by all
),
judged as (
    select 'rewards' as stage, run, 'verdicts' as kind, verdict as outcome, count(*) as n from rewards group by all
),
labelled as (
    select 'step_labels' as stage, run, 'verdicts' as kind, verdict as outcome, count(*) as n
    from step_labels
    group by all
)
select * from rejected
union all
select * from judged
union all
select * from labelled
order by stage, run, kind, outcome
