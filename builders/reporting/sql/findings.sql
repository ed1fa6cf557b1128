-- One row per (quality run, kind, run of the other problem): problems with such a finding, and how alike they are.
select
    run, kind, other_run, count(*) as n, count(*) filter (where dropped) as n_dropped,
    round(avg(similarity), 6) as mean_similarity
from findings
group by all
order by run, kind, other_run
