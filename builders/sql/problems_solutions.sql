-- One row per solution of a problem; those of rows that repeat it with the same answer count where all are wanted.
with sources as (
    select placed.place, placed.rank
    from placed
    join rows_read as this on this.place = placed.place
    left join rows_read as first on first.place = placed.first_place
    where outcome = 'problem' or ($all_solutions and outcome = 'duplicate' and kept and this.answer = first.answer)
),
stated as (
    select place, problem_id, 'natural' as style, hash(solution) as text_hash from rows_read where solution is not null
    union all
    select place, problem_id, 'program' as style, hash(program) as text_hash from rows_read where program is not null
),
told_apart as (
    select
        place, problem_id, style, rank,
        row_number() over (partition by problem_id, style, text_hash order by rank) as copy
    from stated
    join sources using (place)
),
numbered as (
    select place, style, row_number() over (partition by problem_id, style order by rank) - 1 as index
    from told_apart
    where copy = 1
)
select
    problem_id, style, index::integer as index, case style when 'natural' then solution else program end as text
from numbered
join rows_read using (place)
order by problem_id, style, index
