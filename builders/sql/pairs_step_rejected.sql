-- One row per sample with a wrong step: the span to reject, or why no pair is made of it (`reason`). `matches`,
-- `continuations` and `winners` (those of pairs_step_chosen) are tables. $whole: spans end where their texts do.
with counts as (
    select
        prompt_id,
        count(*) as n,
        count(*) filter (where verdict = 'correct') as n_correct,
        count(*) filter (where verdict = 'undecided') as n_undecided
    from continuations
    group by prompt_id
),

chosen as (
    select
        prompt_id,
        count(*) filter (where reason is null) as n,
        count(*) filter (where reason = 'low_accuracy') as n_low
    from winners
    group by prompt_id
),

firsts as (
    select
        *,
        first_value(sample_id) over (partition by step_prompt_id, step_hash order by sample_id) as first_sample
    from matches
)

select
    firsts.problem_id,
    firsts.step_prompt_id as prompt_id,
    firsts.sample_id,
    firsts.step_start as span_start,
    firsts.n_tokens,
    case when $whole then firsts.n_chars else firsts.step_end end as span_end,
    $whole and firsts.is_finished as is_ended,
    case when $whole then firsts.text_hash else firsts.step_hash end as span_hash,
    case
        when firsts.is_blank then 'empty'
        when firsts.first_sample <> firsts.sample_id then 'duplicate'
        when chosen.n_low > 0 and chosen.n = 0 then 'low_accuracy'
        when coalesce(chosen.n, 0) = 0 then 'no_chosen'
    end as reason,
    case
        when firsts.is_blank then ''
        when firsts.first_sample <> firsts.sample_id then 'the wrong step of ' || firsts.first_sample
        when coalesce(chosen.n, 0) = 0
            then format(
                'continuations: {}, correct: {}, undecided: {}',
                coalesce(counts.n, 0), coalesce(counts.n_correct, 0), coalesce(counts.n_undecided, 0)
            )
        else ''
    end as detail
from firsts
left join chosen on firsts.step_prompt_id = chosen.prompt_id
left join counts on firsts.step_prompt_id = counts.prompt_id
