-- One row per row that was read up to the window's end: its rank in the order taken, and what becomes of it.
with ranked as (
    select place, problem_id, located, note, blank, answered, row_number() over (order by order_key, place) - 1 as rank
    from rows_read
),
firsts as (
    select problem_id, min(rank) as first_rank, arg_min(located, rank) as first_located, arg_min(place, rank) as first_place
    from ranked
    where answered and not blank
    group by problem_id
)
select
    ranked.place, ranked.rank, problem_id, firsts.first_place,
    case
        when blank then 'empty'
        when not answered then 'no_answer'
        when firsts.first_rank < rank then 'duplicate'
        else 'problem'
    end as outcome,
    case
        when not blank and answered then located || ' repeats ' || first_located
        when note <> '' then located || ': ' || note
        else located
    end as detail,
    coalesce(firsts.first_rank >= $skip, false) as kept
from ranked
left join firsts using (problem_id)
where rank >= $skip and rank < $stop
