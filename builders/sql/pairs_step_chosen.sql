-- One row per continuation whose first step may be chosen: where the step ends and its place after its prompt, or why
-- it is not chosen after all (`reason`). `continuations` and `matches` are tables; `steps` has every cut-out step: its
-- end (null: there is none), the hash of its text, and whether it is whole. $min_accuracy: least share of a prompt's
-- decided continuations that are correct.
with accuracies as (
    select
        prompt_id,
        count(*) filter (where verdict = 'correct') / count(*) as accuracy
    from continuations
    where verdict <> 'undecided'
    group by prompt_id
),

wrong_steps as (
    select
        step_prompt_id as prompt_id,
        step_hash,
        min(sample_id) as of_sample
    from matches
    group by all
),

judged as (
    select
        steps.sample_id,
        steps.step_end,
        steps.step_hash,
        wrong_steps.of_sample,
        accuracies.accuracy,
        case
            when steps.step_end is null then 'empty'
            when not steps.is_whole then 'truncated'
            when wrong_steps.of_sample is not null then 'duplicate'
            when accuracies.accuracy < $min_accuracy then 'low_accuracy'
        end as reason
    from steps
    inner join continuations using (sample_id)
    left join accuracies using (prompt_id)
    left join wrong_steps
        on continuations.prompt_id = wrong_steps.prompt_id and steps.step_hash = wrong_steps.step_hash
),

repeated as (
    select
        judged.sample_id,
        first_value(judged.sample_id) over same as first_sample
    from judged
    inner join continuations using (sample_id)
    where judged.reason is null
    window same as (
        partition by continuations.prompt_id, judged.step_hash order by continuations."index", judged.sample_id
    )
)

select
    continuations.problem_id,
    continuations.prompt_id,
    continuations.sample_id,
    continuations."index",
    continuations.n_tokens,
    case when $whole then continuations.n_chars else judged.step_end end as span_end,
    $whole and continuations.is_finished as is_ended,
    case when $whole then continuations.text_hash else judged.step_hash end as span_hash,
    coalesce(judged.reason, case when repeated.first_sample <> judged.sample_id then 'duplicate' end) as reason,
    case
        when judged.reason = 'duplicate' then 'the wrong step of ' || judged.of_sample
        when judged.reason = 'low_accuracy' then format('{:.3f} are correct', judged.accuracy)
        when repeated.first_sample <> judged.sample_id then 'the step of ' || repeated.first_sample
        else ''
    end as detail
from judged
inner join continuations using (sample_id)
left join repeated using (sample_id)
