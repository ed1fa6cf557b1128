-- One row per fine-tuning example of the run $run, with its texts and what is known of its problem.
with asked as (
    select
        q.problem_id,
        min_by(q.source, q.run) as source,
        min_by(q.licence, q.run) as licence,
        bool_or(q.split = 'test') as is_test
    from problems q
    join run_sources e on e.input_table = 'problems' and e.input_run = q.run and e."table" = 'demos' and e.run = $run
    group by all
)

select
    t.run, t.prompt_id, t.sample_id, t.problem_id, asked.source, asked.licence,
    t.messages, t.prefill, t.rendering,
    t.text as completion, t.finish_reason = 'stop' as eos,
    asked.is_test,
    t.finish_reason = 'stop' as ends
from demo_texts t
left join asked using (problem_id)
where t.run = $run
order by t.prompt_id, t.sample_id
