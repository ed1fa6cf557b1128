-- One row per solution of a problem; those of rows that repeat it with the same answer count where all are wanted.
with stated as (
    select place, 'natural' as style, natural_hash as text_hash from rows_read where natural_hash is not null
    union all
    select place, 'program' as style, program_hash as text_hash from rows_read where program_hash is not null
),
told_apart as (
    select
        place, problem_id, style, rank,
        row_number() over (partition by problem_id, style, text_hash order by rank) as copy
    from stated
    join placed using (place)
    where outcome = 'problem' or ($all_solutions and outcome = 'duplicate' and agrees)
)
select
    place, problem_id, style,
    (row_number() over (partition by problem_id, style order by rank) - 1)::integer as index
from told_apart
where copy = 1
