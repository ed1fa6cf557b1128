-- One row per demo of the runs a, b, c and d, or why it is not taken (`reason`). All are views. $runs and $texts: names of
-- the runs, and hashes of their texts.
with members as (
    select 1 as member, * from a
    union all
    select 2, * from b
    union all
    select 3, * from c
    union all
    select 4, * from d
)

select
    prompt_id,
    sample_id,
    case when row_number() over (partition by prompt_id, sample_id order by member) > 1 then 'duplicate' end as reason,
    $texts[member] as source_texts,
    format('of run {}', $runs[member]) as detail
from members
