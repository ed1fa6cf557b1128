-- One row per labelled sample: its first wrong step (0-based, and the step's span), or why there is none (`reason`).
-- `labels` is a view of step labels. Valid labels vote; where no choice has the most votes, the labels are disputed.
with votes as (
    select
        sample_id,
        first_error,
        steps[first_error + 1]."start" as step_start,
        steps[first_error + 1]."end" as step_end,
        count(*) as n
    from labels
    where verdict <> 'invalid'
    group by all
),

standings as (
    select
        sample_id,
        max(n) as most,
        string_agg(
            format('{} ({})', coalesce('step ' || (first_error + 1), 'none'), n), ', ' order by first_error, step_start
        ) as said
    from votes
    group by sample_id
),

leaders as (
    select
        votes.sample_id,
        count(*) as n_leaders,
        min(votes.first_error) as first_error,
        min(votes.step_start) as step_start,
        min(votes.step_end) as step_end
    from votes
    inner join standings on votes.sample_id = standings.sample_id and votes.n = standings.most
    group by votes.sample_id
),

labelled as (
    select
        sample_id,
        count(*) as n_labels
    from labels
    group by sample_id
),

judged as (
    select
        labelled.sample_id,
        leaders.first_error,
        leaders.step_start,
        leaders.step_end,
        case
            when leaders.n_leaders is null then 'invalid'
            when leaders.n_leaders > 1 then 'disputed'
            when leaders.first_error is null then 'no_error'
        end as reason,
        case
            when leaders.n_leaders is null then format('labels: {}', labelled.n_labels)
            when leaders.n_leaders > 1 then standings.said
            else ''
        end as detail
    from labelled
    left join leaders using (sample_id)
    left join standings using (sample_id)
)

select
    sample_id,
    case when reason is null then first_error end as first_error,
    case when reason is null then step_start end as step_start,
    case when reason is null then step_end end as step_end,
    reason,
    detail
from judged
order by sample_id
