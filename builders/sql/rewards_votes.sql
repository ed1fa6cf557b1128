-- One row per prediction: its verdict, and why there is none (`reason`). `predictions` and `votes` are views; a sample's
-- prompt is the first 25 characters of its id. $threshold: least confidence; $checker and $version: whose verdict it is.
with answered as (
    select
        predictions.sample_id,
        left(predictions.sample_id, 16) as problem_id,
        left(predictions.sample_id, 25) as prompt_id,
        predictions.normalised,
        votes.answer,
        votes.count as votes,
        votes.n,
        case
            when votes.confidence < $threshold then 'low_confidence'
            when votes.answer is null then 'no_answer'
        end as reason
    from predictions
    left join votes on left(predictions.sample_id, 25) = votes.prompt_id
),

judged as (
    select
        *,
        case
            when reason is not null then 'undecided'
            when normalised is null then 'no_answer'
            when normalised = answer then 'correct'
            else 'wrong'
        end as verdict
    from answered
)

select
    sample_id,
    problem_id,
    prompt_id,
    verdict,
    case verdict when 'correct' then 1.0::double when 'undecided' then null else 0.0::double end as reward,
    $checker as checker,
    $version as checker_version,
    reason,
    case
        when reason = 'low_confidence' then format('{} of {} samples agree, below {}', votes, n, $threshold)
        when n is null then 'the prompt has no vote'
        else 'most samples state no answer'
    end as detail
from judged
