-- One row per (training run, tenth of its steps): the mean logged share of right rollouts with a wrong step, by rule.
-- Steps that drew no right rollout, or runs that look at none, have no share.
with logged as (
    select run, step, wrong_steps, step * 10 // (max(step) over (partition by run) + 1) as tenth
    from training
)
select run, min(step) as first_step, max(step) as last_step, count(*) as n_steps, round(avg(wrong_steps), 6) as share
from logged
where wrong_steps is not null
group by run, tenth
order by run, tenth
