-- One row per (audit, part of it): samples by what most of their valid labels say of the process. The parts are each
-- source, each tenth of the steps that drew the samples where `rollouts` has them, and all together (source, step null).
-- A sample of which as many valid labels say one as the other is disputed; one without a valid label is invalid.
-- `audited` names the labels, and of guards the verdicts, of which only the right answers' count, and the rollouts.
with places as (
    select e.run, p.problem_id, min(p.source) as source
    from run_sources as e
    join problems as p on p.run = e.input_run
    where e."table" = 'step_labels' and e.input_table = 'problems'
    group by all
),
votes as (
    select
        a.name, a.run, a.rewards, a.rollouts, l.sample_id,
        count(*) filter (where l.verdict = 'no_error') as sound,
        count(*) filter (where l.verdict = 'error') as wrong
    from step_labels as l
    join audited as a on a.run = l.run
    group by all
),
drawn as (
    select run, sample_id, step, step * 10 // (max(step) over (partition by run) + 1) as tenth from rollouts
),
counted as (
    select
        v.name, coalesce(p.source, 'unknown') as source, d.step, d.tenth,
        v.sound > v.wrong as is_right, v.wrong > v.sound as is_wrong, v.sound = v.wrong and v.sound > 0 as is_disputed
    from votes as v
    left join places as p on p.run = v.run and p.problem_id = left(v.sample_id, 16)
    left join drawn as d on d.run = v.rollouts and d.sample_id = v.sample_id
    where v.rewards = '' or exists (
        select 1 from rewards as w where w.run = v.rewards and w.sample_id = v.sample_id and w.verdict = 'correct'
    )
)
select
    name, source,
    case when grouping(tenth) = 0 then min(step) end as first_step,
    case when grouping(tenth) = 0 then max(step) end as last_step,
    count(*) as n_samples,
    count(*) filter (where is_right) as n_right,
    count(*) filter (where is_wrong) as n_wrong,
    count(*) filter (where is_disputed) as n_disputed,
    count(*) filter (where not is_right and not is_wrong and not is_disputed) as n_invalid
from counted
group by grouping sets ((name, source), (name, tenth), (name))
having grouping(tenth) = 1 or tenth is not null
order by name, source nulls last, first_step nulls first
