-- One row per (floor, model, ceiling) asked for: the problems that all three answered, by who is right.
with answered as (
    select
        a.floor, a.model, a.ceiling,
        f.correct::integer as f, m.correct::integer as m, c.correct::integer as c
    from gaps as a
    join outcomes as f on f.run = a.floor
    join outcomes as m on m.run = a.model and m.problem_id = f.problem_id
    join outcomes as c on c.run = a.ceiling and c.problem_id = f.problem_id
)
select
    floor as floor_run, model as model_run, ceiling as ceiling_run,
    count(*) as n,
    sum(f)::bigint as floor, sum(m)::bigint as model, sum(c)::bigint as ceiling,
    sum(f * m)::bigint as floor_model, sum(f * c)::bigint as floor_ceiling, sum(m * c)::bigint as model_ceiling
from answered
group by all
order by all
