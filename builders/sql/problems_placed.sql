-- One row per row of the window: what becomes of it, and its rank in the order taken.
with ranked as (
    select place, problem_id, row_number() over (order by order_key, place) - 1 as rank
    from rows_read
),
firsts as (
    select problem_id, min(rank) as first_rank, arg_min(place, rank) as first_place
    from ranked
    semi join (
        from rows_read where (answer is not null or $unanswered) and reason is null and not blank
    ) using (place)
    group by problem_id
)
select
    place, rank, this.problem_id, first_place,
    case
        when this.blank then 'empty'
        when this.reason is not null then this.reason
        when this.answer is null and not $unanswered then 'no_answer'
        when first_rank < rank then 'duplicate'
        else 'problem'
    end as outcome,
    first_rank >= $skip and this.answer = first.answer as agrees
from ranked
join rows_read as this using (place)
left join firsts on firsts.problem_id = this.problem_id
left join rows_read as first on first.place = first_place
where rank >= $skip and rank < $stop
