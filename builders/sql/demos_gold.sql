-- One row per (gold sample, prompt of its problem): a demo, or a sample whose problem has no prompt (`reason`).
-- `samples` and `prompts` are views.
select
    samples.problem_id,
    prompts.prompt_id,
    samples.sample_id,
    samples.text_hash as demo_text_hash,
    case when prompts.prompt_id is null then 'unknown_prompt' end as reason
from samples
left join prompts using (problem_id)
order by prompts.prompt_id, samples.sample_id
