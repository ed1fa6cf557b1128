-- One row per prediction: its verdict. `comparisons` holds what each (checker, extracted, gold) came to (`matches`:
-- true, false, or null where the checker could not tell), `checkers` the version of each checker.
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
        end as verdict
    from predicted
    left join answers using (problem_id)
    left join comparisons
        on
            predicted.checker = comparisons.checker
            and predicted.extracted = comparisons.extracted
            and answers.answer = comparisons.gold
)

select
    judged.sample_id,
    judged.verdict,
    case judged.verdict when 'correct' then 1.0::double when 'undecided' then null else 0.0::double end as reward,
    judged.checker,
    checkers.version as checker_version
from judged
inner join checkers using (checker)
order by judged.sample_id
