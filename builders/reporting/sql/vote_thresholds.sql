-- One row per (votes run, threshold): the prompts whose majority is that confident, and how many of them are right.
-- A majority is judged by its first sample; `voted.gold` names the run of rewards that judged the samples. Prompts of
-- which most samples state no answer are kept at no threshold: no stage makes rows of them.
with thresholds as (
    select tenths / 10 as threshold from range(11) as t (tenths)
),
judged as (
    select
        w.run, v.answer, v.confidence,
        r.sample_id is not null as judged, coalesce(r.verdict = 'correct', false) as is_right
    from voted as w
    join votes as v using (run)
    left join rewards as r on r.run = w.gold and r.sample_id = v.sample_id and r.verdict <> 'undecided'
),
marked as (
    select j.*, t.threshold, j.answer is not null and j.confidence >= t.threshold as kept
    from judged as j
    cross join thresholds as t
)
select
    run, threshold,
    count(*) as n,
    count(*) filter (where answer is null) as n_no_answer,
    count(*) filter (where kept) as n_kept,
    count(*) filter (where kept and judged) as n_judged,
    count(*) filter (where kept and is_right) as n_right
from marked
group by run, threshold
order by run, threshold
