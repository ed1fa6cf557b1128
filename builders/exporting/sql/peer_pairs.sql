-- One row per pair of the run $run, with its texts and what is known of its problem, in the order of the table.
with asked as (
    select
        q.problem_id,
        min_by(q.source, q.run) as source,
        min_by(q.licence, q.run) as licence,
        bool_or(q.split = 'test') as is_test
    from problems q
    join run_sources e on e.input_table = 'problems' and e.input_run = q.run and e."table" = 'pairs' and e.run = $run
    group by all
)

select
    t.pair_id, t.run, t.prompt_id, t.rank, t.problem_id, asked.source, asked.licence,
    t.messages, t.prefill, t.rendering,
    t.chosen, t.chosen_eos, t.chosen_sample_id, t.chosen_start, t.chosen_end,
    t.rejected, t.rejected_eos, t.rejected_sample_id, t.rejected_start, t.rejected_end,
    asked.is_test,
    t.chosen_eos and t.rejected_eos as ends
from pair_texts t
left join asked using (problem_id)
where t.run = $run
order by t.prompt_id, t.rank
