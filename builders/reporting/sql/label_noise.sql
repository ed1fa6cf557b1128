-- One row per (pairs run, case): how many chosen and rejected samples are right; case null: all pairs of the run.
-- `noisy` names, for each side's model, the predictions and the run of rewards that judged them against gold.
with asked as (
    select p.*
    from pairs as p
    where p.run in (select run from noisy)
),
used as (
    select run, chosen_sample_id as sample_id from asked union select run, rejected_sample_id from asked
),
stated as (
    select n.run, p.sample_id, bool_or(n.side = 'weak') as weak, min(r.verdict) as verdict
    from noisy as n
    join predictions as p on p.run = n.predictions
    semi join used as u on u.run = n.run and u.sample_id = p.sample_id
    left join rewards as r on r.run = n.gold and r.sample_id = p.sample_id and r.verdict <> 'undecided'
    group by n.run, p.sample_id
),
sided as (
    select
        a.run, c.verdict as chosen, r.verdict as rejected,
        case when c.weak then 'weak_chosen' when r.weak then 'weak_rejected' else 'own' end as kind
    from asked as a
    left join stated as c on c.run = a.run and c.sample_id = a.chosen_sample_id
    left join stated as r on r.run = a.run and r.sample_id = a.rejected_sample_id
)
select
    run, kind,
    count(*) as n,
    count(chosen) as n_chosen_judged,
    count(*) filter (where chosen = 'correct') as n_chosen_right,
    count(rejected) as n_rejected_judged,
    count(*) filter (where rejected = 'correct') as n_rejected_right
from sided
group by grouping sets ((run, kind), (run))
order by run, kind nulls first
