-- One row per correct start of an answer: what is asked, and the sample's own prefill and text up to its first wrong
-- step. `samples` and `prompts` (theirs) are views, `consensus` is a table of step_consensus.
with starts as (
    select
        samples.problem_id,
        samples.prompt_id,
        samples.sample_id,
        prompts.messages,
        prompts.prefill || left(samples.text, consensus.step_start) as prefill,
        prompts.rendering,
        prompts.style,
        prompts.template,
        prompts.demo_sample_ids
    from consensus
    inner join samples using (sample_id)
    inner join prompts using (prompt_id)
    where consensus.reason is null
)

select distinct on (problem_id, messages, rendering, prefill)
    problem_id,
    messages,
    prefill,
    rendering,
    style,
    template,
    demo_sample_ids
from starts
order by problem_id, messages, rendering, prefill, prompt_id, sample_id
