-- One row per sample: whether it is labelled (`reason` null), or why not. `samples`, `rewards` and `problems` are views.
-- $select: samples of this verdict alone, or `all`; $limit (null: none): so many of each source, those whose hash with
-- $seed comes first, so that runs of one seed draw the same samples and a higher limit adds to a lower one's.
with judged as (
    select
        samples.sample_id,
        samples.problem_id,
        problems.source,
        case
            when $select <> 'all' and rewards.verdict <> $select then rewards.verdict
            when not regexp_matches(samples.text, '\S') then 'empty'
        end as reason
    from samples
    left join rewards using (sample_id)
    left join problems using (problem_id)
),

drawn as (
    select
        *,
        case when $limit is not null and reason is null then row_number() over (
            partition by source, reason order by md5($seed || sample_id), sample_id
        ) end as place
    from judged
)

select
    problem_id,
    null::varchar as prompt_id,
    sample_id,
    coalesce(reason, case when place > $limit then 'capped' end) as reason,
    case when place > $limit then format('above {} samples of {}', $limit, source) else '' end as detail
from drawn
