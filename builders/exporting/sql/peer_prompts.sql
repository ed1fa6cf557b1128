-- One row per prompt of the run $run whose problem has a known answer.
with asked as (
    select
        q.problem_id,
        min_by(q.source, q.run) as source,
        min_by(q.licence, q.run) as licence,
        min_by(q.answer_kind, q.run) as answer_kind,
        min_by(q.choices, q.run) as choices,
        bool_or(q.split = 'test') as is_test
    from problems q
    join run_sources e on e.input_table = 'problems' and e.input_run = q.run and e."table" = 'prompts' and e.run = $run
    group by all
),

gold as (
    select a.problem_id, min_by(a.answer, a.run) as answer
    from answers a
    join run_sources e on e.input_table = 'answers' and e.input_run = a.run and e."table" = 'prompts' and e.run = $run
    group by all
)

select
    p.run, p.prompt_id, p.problem_id, asked.source, asked.licence,
    p.messages, p.prefill, p.rendering,
    gold.answer, asked.answer_kind, asked.choices,
    asked.is_test,
    true as ends
from prompts p
join gold using (problem_id)
left join asked using (problem_id)
where p.run = $run
order by p.prompt_id
