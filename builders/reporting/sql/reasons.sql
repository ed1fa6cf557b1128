-- One row per (stage, run, outcome): rejects by reason, and the verdicts that a rewards run gave.
with rejected as (
    select stage, run, 'rejects' as kind, reason as outcome, count(*) as n from rejects group by all
),
judged as (
    select 'rewards' as stage, run, 'verdicts' as kind, verdict as outcome, count(*) as n from rewards group by all
)
select * from rejected union all select * from judged
order by stage, run, kind, outcome
