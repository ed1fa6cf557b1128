-- One row per sample and prompt that it goes under: whether it becomes a demo (`reason` null), or why not.
-- `samples` and `rewards` are views, and so is `prompts`, with $moved the ones that samples go under (else their own);
-- `step_flaws` has the samples with a wrong step. $deduplicate: of one problem's equal texts only the first counts;
-- $max_per_problem (null: none): the cap; $max_tokens (null: none): of prompt and completion. Samples count in the
-- order of their index, which takes from all prompts and settings of a problem in turn.
with judged as (
    select
        samples.sample_id,
        samples.prompt_id,
        samples.problem_id,
        samples."index",
        samples.text_hash,
        case
            when rewards.verdict <> 'correct' then rewards.verdict
            when step_flaws.sample_id is not null then 'wrong_step'
            when asked.problem_id is null and (samples.prompt_id is null or $moved) then 'unknown_prompt'
            when samples.finish_reason = 'length' then 'truncated'
            when samples.n_prompt_tokens + samples.n_tokens > $max_tokens then 'over_long'
        end as reason
    from samples
    inner join rewards using (sample_id)
    left join step_flaws using (sample_id)
    left join (select distinct problem_id from prompts) as asked on asked.problem_id = samples.problem_id
),

distinct_texts as (
    select
        *,
        $deduplicate and row_number() over (
            partition by problem_id, text_hash order by "index", sample_id
        ) > 1 as repeated
    from judged
    where reason is null
),

counted as (
    select
        *,
        case when not repeated then row_number() over (
            partition by problem_id, repeated order by "index", sample_id
        ) end as place
    from distinct_texts
),

decided as (
    select
        judged.* exclude (reason),
        coalesce(
            judged.reason,
            case when counted.repeated then 'duplicate' when counted.place > $max_per_problem then 'capped' end
        ) as reason
    from judged
    left join counted using (sample_id)
)

select
    decided.problem_id,
    coalesce(prompts.prompt_id, decided.prompt_id) as prompt_id,
    decided.sample_id,
    decided.text_hash as demo_text_hash,
    decided.reason
from decided
left join prompts on decided.reason is null and prompts.problem_id = decided.problem_id
order by 2, decided.sample_id
