-- One row per prediction of the views a and b: the agreement of its problem, where it is the one of `a` that is compared
-- (`reason` null), or why it makes none. $a and $b name the runs.
with answered as (
    select 'a' as side, left(sample_id, 16) as problem_id, sample_id, normalised from a
    union all
    select 'b', left(sample_id, 16), sample_id, normalised from b
),

numbered as (
    select *, row_number() over (partition by side, problem_id order by sample_id) as place
    from answered
),

joined as (
    select
        mine.side,
        mine.place,
        mine.problem_id,
        mine.sample_id,
        other.sample_id as other_sample_id,
        mine.normalised as answer,
        other.normalised as other_answer
    from numbered as mine
    left join numbered as other
        on mine.problem_id = other.problem_id and mine.side <> other.side and other.place = 1
)

select
    problem_id,
    sample_id,
    other_sample_id,
    side,
    answer,
    other_answer,
    coalesce(answer = other_answer, false) as agrees,
    case when place > 1 then 'capped' when other_sample_id is null then 'unpaired' end as reason,
    case
        when place > 1 then 'of several samples the first is compared'
        when other_sample_id is null then format('run {} has no sample of it', if(side = 'a', $b, $a))
        else ''
    end as detail
from joined
