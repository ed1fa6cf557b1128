-- One row per sample of the views `samples` and `other`: the demo that it becomes (`reason` null), or why it is none.
-- `prompts` and `agreements` are views. $filtered: only compared samples of problems that are kept count;
-- $max_tokens (null: none): of the completion.
with members as (
    select sample_id, problem_id, text_hash, n_chars, n_tokens, finish_reason from samples
    union
    select sample_id, problem_id, text_hash, n_chars, n_tokens, finish_reason from other
),

compared as (
    select distinct problem_id, kept, unnest([a_sample_id, b_sample_id]) as sample_id from agreements
),

problems as (
    select distinct problem_id from agreements
)

select
    members.problem_id,
    prompts.prompt_id,
    members.sample_id,
    members.text_hash as demo_text_hash,
    case
        when $filtered and problems.problem_id is null then 'unpaired'
        when $filtered and compared.sample_id is null then 'capped'
        when $filtered and not compared.kept then 'disagreeing'
        when prompts.prompt_id is null then 'unknown_prompt'
        when members.n_chars = 0 then 'empty'
        when members.finish_reason = 'length' then 'truncated'
        when members.n_tokens > $max_tokens then 'over_long'
    end as reason
from members
left join problems using (problem_id)
left join compared using (problem_id, sample_id)
left join prompts on members.problem_id = prompts.problem_id
order by prompts.prompt_id, members.sample_id
