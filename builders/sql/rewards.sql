-- One row per prediction: its verdict. `comparisons` holds what each (checker, extracted, gold) came to (`matches`:
-- true, false, or null where the checker could not tell; `numbers`: both are numbers), `checkers` the version of each
-- checker, `choices` the problems with options, and `worth` the reward of each verdict.
with predicted as (
    select
        sample_id,
        left(sample_id, 16) as problem_id,
        regexp_replace(extractor, ':[^:]*$', '') as checker,
        extracted
    from predictions
),

judged as (
    select
        predicted.sample_id,
        predicted.checker,
        case
            when answers.answer is null then 'undecided'
            when predicted.extracted is null then 'no_answer'
            when comparisons.matches then 'correct'
            when not comparisons.matches then 'wrong'
            else 'undecided'
        end as verdict,
        coalesce(comparisons.numbers, false) as numbers,
        choices.problem_id is not null as options
    from predicted
    left join answers using (problem_id)
    left join comparisons
        on
            predicted.checker = comparisons.checker
            and predicted.extracted = comparisons.extracted
            and answers.answer = comparisons.gold
    left join choices on predicted.problem_id = choices.problem_id
)

select
    judged.sample_id,
    judged.verdict,
    worth.reward,
    judged.checker,
    checkers.version as checker_version
from judged
inner join checkers using (checker)
inner join worth using (verdict, numbers, options)
order by judged.sample_id
