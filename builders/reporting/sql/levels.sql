-- One row per (evaluated run, level), for problems whose source states a level.
with counted as (
    select run, level, count(*) as n, count(*) filter (where correct) as n_correct
    from outcomes
    where level is not null
    group by run, level
)
select * from counted order by run, length(level), level
