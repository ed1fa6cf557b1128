-- One row per (audited run, source): samples by what most of their valid labels say of the process; source null: all.
-- A sample of which as many valid labels say one as the other is disputed; one without a valid label is invalid.
with places as (
    select e.run, p.problem_id, min(p.source) as source
    from run_sources as e
    join problems as p on p.run = e.input_run
    where e."table" = 'step_labels' and e.input_table = 'problems'
    group by all
),
votes as (
    select
        run, sample_id,
        count(*) filter (where verdict = 'no_error') as sound,
        count(*) filter (where verdict = 'error') as wrong
    from step_labels
    join audited using (run)
    group by all
),
counted as (
    select
        v.run, coalesce(p.source, 'unknown') as source,
        v.sound > v.wrong as is_right, v.wrong > v.sound as is_wrong, v.sound = v.wrong and v.sound > 0 as is_disputed
    from votes as v
    left join places as p on p.run = v.run and p.problem_id = left(v.sample_id, 16)
)
select
    run, source,
    count(*) as n_samples,
    count(*) filter (where is_right) as n_right,
    count(*) filter (where is_wrong) as n_wrong,
    count(*) filter (where is_disputed) as n_disputed,
    count(*) filter (where not is_right and not is_wrong and not is_disputed) as n_invalid
from counted
group by grouping sets ((run, source), (run))
order by run, source nulls last
