-- One row per prompt: the answer that most of its samples state, or why there is none (`reason`). `samples` and
-- `predictions` are views. $empty_counts: whether samples that state no answer vote, for none.
with answered as (
    select
        samples.prompt_id,
        samples.problem_id,
        predictions.normalised as answer,
        $empty_counts or predictions.normalised is not null as counts,
        {'index': samples."index", 'sample_id': samples.sample_id} as place
    from samples
    inner join predictions using (sample_id)
),

ballots as (
    select prompt_id, problem_id, answer, counts, count(*) as votes, min(place) as first_place
    from answered
    group by all
),

ranked as (
    select
        *,
        coalesce(sum(votes) filter (where counts) over (partition by prompt_id), 0) as n,
        row_number() over (partition by prompt_id order by counts desc, votes desc, first_place) as rank
    from ballots
)

select
    prompt_id,
    problem_id,
    first_place.sample_id as sample_id,
    answer,
    votes::integer as count,
    n::integer as n,
    votes / n as confidence,
    case when not counts then 'no_answer' end as reason
from ranked
where rank = 1
