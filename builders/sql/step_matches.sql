-- One row per sample with a first wrong step: the step, and the prompt that stops before it. `samples`, `prompts`
-- (theirs) and `step_prompts` are views, `consensus` is a table of step_consensus.
-- The match is the check that all of them belong together: a step prompt has the messages of the sample's own prompt,
-- and its prefill is that prompt's and the sample's text up to the step.
select
    samples.sample_id,
    samples.problem_id,
    samples.prompt_id,
    step_prompts.prompt_id as step_prompt_id,
    consensus.first_error,
    consensus.step_start,
    consensus.step_end,
    samples.n_chars,
    samples.n_prompt_tokens + samples.n_tokens as n_tokens,
    samples.finish_reason <> 'length' as is_finished,
    samples.text_hash,
    samples.text[consensus.step_start + 1:consensus.step_end] as step_text,
    left(sha256(step_text), 16) as step_hash,
    trim(step_text, E' \t\r\n') = '' as is_blank
from consensus
inner join samples using (sample_id)
left join prompts using (prompt_id)
left join step_prompts
    on
        samples.problem_id = step_prompts.problem_id
        and prompts.rendering = step_prompts.rendering
        and prompts.messages = step_prompts.messages
        and prompts.prefill || left(samples.text, consensus.step_start) = step_prompts.prefill
where consensus.reason is null
