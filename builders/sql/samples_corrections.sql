-- One row per label of a sample with a first wrong step: the correction that it gives, and what it takes the place of;
-- or why it gives none (`reason`). `matches` is a table of step_matches; `labels` and `step_prompts` are views.
with given as (
    select
        matches.problem_id,
        matches.step_prompt_id as prompt_id,
        matches.sample_id,
        labels.labeler,
        labels.repeat,
        matches.step_text,
        labels.correction,
        case
            when labels.verdict = 'invalid' then 'invalid'
            when
                labels.first_error is distinct from matches.first_error
                or labels.steps[labels.first_error + 1]."start" <> matches.step_start
                or labels.steps[labels.first_error + 1]."end" <> matches.step_end
                then 'disputed'
            when labels.correction is null then 'no_correction'
        end as reason
    from matches
    inner join labels using (sample_id)
)

select
    given.*,
    step_prompts.messages,
    step_prompts.prefill,
    step_prompts.rendering
from given
inner join step_prompts using (prompt_id)
order by given.prompt_id, given.sample_id, given.labeler, given.repeat
