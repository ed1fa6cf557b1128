-- One row per (step_labels run, labeler): how far its repeats name the same first wrong step; labeler null: how far
-- the run's labelers do, by the first valid label of each. Counts for Krippendorff's alpha with nominal labels: values
-- are those of samples with two or more of them, and 'no error' is a label as any step is.
with valid as (
    select s.run, s.kind, s.labeler, s.sample_id, s.repeat, coalesce(s.first_error, -1) as label
    from step_labels as s
    where s.verdict <> 'invalid' and s.run in (select labels_run from calibrated union all select humans_run from calibrated)
),
firsts as (
    select run, sample_id, label
    from valid
    qualify row_number() over (partition by run, kind, labeler, sample_id order by repeat) = 1
),
tallies as (
    select run, kind, labeler, sample_id, label, count(*) as n from valid group by all
    union all
    select run, null, null, sample_id, label, count(*) from firsts group by all
),
shared as (
    select *, sum(n) over (partition by run, kind, labeler, sample_id) as m
    from tallies
    qualify m >= 2
),
sums as (
    select
        run, kind, labeler,
        count(distinct sample_id) as n_samples,
        sum(n)::bigint as n_values,
        sum(n * (m - 1))::bigint // 2 as n_pairs,
        sum(n * (n - 1))::bigint // 2 as n_equal,
        sum(n * (n - 1) / (m - 1)) as agreed
    from shared
    group by all
),
by_label as (
    select run, kind, labeler, label, sum(n)::bigint as n from shared group by all
),
by_chance as (
    select run, kind, labeler, sum(n * (n - 1))::bigint as n_chance from by_label group by all
)
select s.*, k.n_chance
from sums as s
join by_chance as k
    on k.run = s.run and k.kind is not distinct from s.kind and k.labeler is not distinct from s.labeler
order by s.run, s.kind nulls first, s.labeler
