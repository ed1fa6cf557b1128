-- One row per labelled example: the steps of a sample and the first wrong one, at most $per_run of each step_labels run.
-- The first samples by id are as good as random ones, since ids are hashes.
with firsts as (
    select *
    from step_labels
    where verdict = 'error'
    qualify row_number() over (partition by run, sample_id order by labeler, repeat) = 1
),
shown as (
    select * from firsts qualify row_number() over (partition by run order by sample_id) <= $per_run
),
texts as (
    select e.run, s.sample_id, any_value(s.text) as text
    from run_sources as e
    join samples as s on s.run = e.input_run
    where
        e."table" = 'step_labels' and e.input_table = 'samples' and s.sample_id in (select sample_id from shown)
    group by e.run, s.sample_id
),
asked as (
    select e.run, p.problem_id, any_value(p.question) as question
    from run_sources as e
    join problems as p on p.run = e.input_run
    where
        e."table" = 'step_labels' and e.input_table = 'problems'
        and p.problem_id in (select left(sample_id, 16) from shown)
    group by e.run, p.problem_id
)
select
    s.run, s.sample_id, s.labeler, s.first_error, s.rationale, s.correction, a.question,
    list_transform(s.steps, lambda step: substr(t.text, step."start" + 1, step."end" - step."start")) as steps
from shown as s
left join texts as t using (run, sample_id)
left join asked as a on a.run = s.run and a.problem_id = left(s.sample_id, 16)
order by s.run, s.sample_id
