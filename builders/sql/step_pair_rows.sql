-- One row per step pair of the run $run, in the columns of the published Math-Step-DPO-10K: pairs of a file in its
-- order, others by prompt and rank. A full text goes on from the step; what an imported run keeps apart comes first.
with spans as (
    select
        t.*,
        c.text[t.chosen_start + 1 :] as after_chosen,
        r.text[t.rejected_start + 1 :] as after_rejected,
        regexp_extract(c.model, '^imported:chosen:(\d+)$', 1) as block,
        c."index" as place
    from pair_texts t
    join samples c on c.run = t.chosen_run and c.sample_id = t.chosen_sample_id
    join samples r on r.run = t.rejected_run and r.sample_id = t.rejected_sample_id
    where t.run = $run
),

kept_apart as (
    select run, problem_id, "index" as place, split_part(model, ':', 2) as kind, split_part(model, ':', 3) as block, text
    from samples
    where prompt_id is null and starts_with(model, 'imported:')
),

asked as (
    select q.problem_id, min_by(q.source, q.run) as source, min_by(q.question, q.run) as question
    from problems q
    join run_sources e on e.input_table = 'problems' and e.input_run = q.run and e."table" = 'pairs' and e.run = $run
    group by all
),

gold as (
    select a.problem_id, min_by(a.answer, a.run) as answer
    from answers a
    join run_sources e on e.input_table = 'answers' and e.input_run = a.run and e."table" = 'pairs' and e.run = $run
    group by all
)

select
    asked.source as dataset,
    asked.question as prompt,
    spans.prefill as initial_reason_steps,
    spans.chosen,
    spans.rejected,
    coalesce(full_chosen.text, after_chosen) as full_chosen,
    coalesce(full_rejected.text, after_rejected) as full_rejected,
    coalesce(other.text, gold.answer, '') as answer
from spans
join asked using (problem_id)
left join gold using (problem_id)
left join kept_apart as full_chosen
    on (full_chosen.run, full_chosen.problem_id, full_chosen.kind, full_chosen.block, full_chosen.place)
    = (spans.chosen_run, spans.problem_id, 'full_chosen', spans.block, spans.place)
left join kept_apart as full_rejected
    on (full_rejected.run, full_rejected.problem_id, full_rejected.kind, full_rejected.block, full_rejected.place)
    = (spans.chosen_run, spans.problem_id, 'full_rejected', spans.block, spans.place)
left join kept_apart as other
    on (other.run, other.problem_id, other.kind, other.block, other.place)
    = (spans.chosen_run, spans.problem_id, 'answer', spans.block, spans.place)
order by spans.chosen_run, try_cast(spans.block as bigint), if(spans.block = '', null, spans.place), spans.prompt_id, spans.rank
