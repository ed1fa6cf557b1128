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
        sample_id,
        row_number() over (partition by source order by md5($seed || sample_id), sample_id) as place
    from judged
    where reason is null and $limit is not null
)

select
    judged.problem_id,
    null::varchar as prompt_id,
    judged.sample_id,
    coalesce(judged.reason, case when drawn.place > $limit then 'capped' end) as reason,
    case when drawn.place > $limit then format('above {} samples of {}', $limit, judged.source) else '' end as detail
from judged
left join drawn using (sample_id)
