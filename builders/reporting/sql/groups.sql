-- One row per (evaluated run, kind of group, group): accuracy by level, by subject and by number of steps.
-- The groups `10+` and later of steps are one.
with grouped as (
    select run, 'level' as kind, level as "group", correct from outcomes where level is not null
    union all
    select run, 'subject', subject, correct from outcomes where subject is not null
    union all
    select run, 'steps', if(n_steps >= 10, '10+', n_steps::varchar), correct from outcomes where n_steps > 0
),
counted as (
    select run, kind, "group", count(*) as n, count(*) filter (where correct) as n_correct
    from grouped
    group by all
)
select * from counted order by run, kind, length("group"), "group"
