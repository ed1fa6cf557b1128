-- One row per pair of the runs a, b, c and d: its rank among those that are taken, or why it is not (`reason`). All are
-- views. $runs and $texts: names of the runs, and hashes of their texts; $restricted: only pairs of `problems` count;
-- $deduplicate: of equal pairs only the first counts.
with members as (
    select 1 as member, * from a
    union all
    select 2, * from b
    union all
    select 3, * from c
    union all
    select 4, * from d
),

marked as (
    select
        *,
        $restricted and problem_id not in (select problem_id from problems) as is_held_out,
        $deduplicate and row_number() over (
            partition by
                prompt_id,
                chosen_sample_id, chosen_start, chosen_end, chosen_eos,
                rejected_sample_id, rejected_start, rejected_end, rejected_eos
            order by member, rank
        ) > 1 as is_repeated
    from members
),

judged as (
    select *, case when is_held_out then 'held_out' when is_repeated then 'duplicate' end as reason
    from marked
)

select
    * exclude (member, rank, is_held_out, is_repeated),
    (row_number() over (partition by prompt_id, reason order by member, rank) - 1)::integer as rank,
    $texts[member] as source_texts,
    format('rank {} of run {}', rank, $runs[member]) as detail
from judged
