-- One row per (table, run): its number of rows.
with counted as (
    select 'problems' as "table", run, count(*) as n from problems group by run
    union all select 'answers', run, count(*) from answers group by run
    union all select 'solutions', run, count(*) from solutions group by run
    union all select 'prompts', run, count(*) from prompts group by run
    union all select 'samples', run, count(*) from samples group by run
    union all select 'predictions', run, count(*) from predictions group by run
    union all select 'rewards', run, count(*) from rewards group by run
    union all select 'demos', run, count(*) from demos group by run
    union all select 'pairs', run, count(*) from pairs group by run
    union all select 'reference_logprobs', run, count(*) from reference_logprobs group by run
    union all select 'training', run, count(*) from training group by run
)
select * from counted order by "table", run
