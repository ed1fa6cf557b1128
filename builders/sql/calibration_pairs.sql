-- One row per (calibration, two labelers): samples that both labelled, and how often they name the same first wrong step.
-- A labeler's label of a sample is the first valid one; 'no error' is a label as any step is. n_chance / n² is the share
-- that would be equal by chance, given how often each of the two uses each label.
with firsts as (
    select
        c.labels_run, c.humans_run, s.kind, s.labeler, s.sample_id, s.steps, coalesce(s.first_error, -1) as label
    from calibrated as c
    join step_labels as s on s.run in (c.labels_run, c.humans_run)
    where s.verdict <> 'invalid'
    qualify row_number() over (
        partition by c.labels_run, c.humans_run, s.kind, s.labeler, s.sample_id order by s.run <> c.labels_run, s.repeat
    ) = 1
),
paired as (
    select
        a.labels_run, a.humans_run, a.kind as a_kind, a.labeler as a, b.kind as b_kind, b.labeler as b,
        a.label as a_label, b.label as b_label
    from firsts as a
    join firsts as b using (labels_run, humans_run, sample_id, steps)
    where (a.kind, a.labeler) < (b.kind, b.labeler)
),
sides as (
    select labels_run, humans_run, a_kind, a, b_kind, b, true as first, a_label as label, count(*) as n
    from paired
    group by all
    union all
    select labels_run, humans_run, a_kind, a, b_kind, b, false, b_label, count(*) from paired group by all
),
by_chance as (
    select x.labels_run, x.humans_run, x.a_kind, x.a, x.b_kind, x.b, sum(x.n * y.n)::bigint as n_chance
    from sides as x
    join sides as y using (labels_run, humans_run, a_kind, a, b_kind, b, label)
    where x.first and not y.first
    group by all
),
counted as (
    select
        labels_run, humans_run, a_kind, a, b_kind, b,
        count(*) as n, count(*) filter (where a_label = b_label) as n_equal
    from paired
    group by all
)
select c.*, coalesce(k.n_chance, 0) as n_chance
from counted as c
left join by_chance as k using (labels_run, humans_run, a_kind, a, b_kind, b)
order by c.labels_run, c.humans_run, c.a_kind, c.a, c.b_kind, c.b
