-- One row per (consistency run, side): the compared samples of that side, by what is kept and, where gold says, right.
-- `filters.gold` names the run of rewards that judged the side's samples; what it could not decide is not judged.
with compared as (
    select f.run, f.side, f.gold, g.agrees, g.kept, if(f.side = 'a', g.a_sample_id, g.b_sample_id) as sample_id
    from filters as f
    join agreements as g using (run)
),
judged as (
    select c.*, r.sample_id is not null as judged, coalesce(r.verdict = 'correct', false) as is_right
    from compared as c
    left join rewards as r on r.run = c.gold and r.sample_id = c.sample_id and r.verdict <> 'undecided'
)
select
    run, side,
    count(*) as n,
    count(*) filter (where agrees) as n_agreeing,
    count(*) filter (where kept) as n_kept,
    count(*) filter (where judged) as n_judged,
    count(*) filter (where is_right) as n_right,
    count(*) filter (where kept and judged) as n_kept_judged,
    count(*) filter (where kept and is_right) as n_kept_right,
    count(*) filter (where kept and judged and not agrees) as n_topped_up_judged,
    count(*) filter (where kept and is_right and not agrees) as n_topped_up_right
from judged
group by run, side
order by run, side
