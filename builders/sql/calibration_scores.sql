-- One row per (calibration, labeler, source): its labellings against those of humans; source null: all sources.
-- A labelling is right if some human's valid label of the same sample names the same first wrong step, or also none.
-- Nobody is compared with himself. A sample's id starts with its problem's.
with places as (
    select e.run, p.problem_id, min(p.source) as source
    from run_sources as e
    join problems as p on p.run = e.input_run
    where e."table" = 'step_labels' and e.input_table = 'problems'
    group by all
),
given as (
    select s.*, coalesce(p.source, 'unknown') as source
    from step_labels as s
    left join places as p on p.run = s.run and p.problem_id = left(s.sample_id, 16)
    where s.run in (select labels_run from calibrated union all select humans_run from calibrated)
),
humans as (
    select c.labels_run, c.humans_run, g.kind, g.labeler, g.sample_id, g.steps, g.source, g.verdict, g.first_error
    from calibrated as c
    join given as g on g.run = c.humans_run
    where g.verdict <> 'invalid'
),
labelled as (
    select
        c.labels_run, c.humans_run, g.kind, g.labeler, g.sample_id, g.repeat, g.steps, g.source, g.verdict, g.first_error
    from calibrated as c
    join given as g on g.run = c.labels_run
),
compared as (
    select
        l.labels_run, l.humans_run, l.kind, l.labeler, l.source, l.sample_id, l.repeat,
        any_value(l.verdict) <> 'invalid' as valid,
        count(h.sample_id) > 0 as seen,
        coalesce(bool_or(h.verdict = 'error'), false) as wrong,
        coalesce(bool_or(h.verdict = 'no_error'), false) as sound,
        coalesce(bool_or(h.first_error is not distinct from l.first_error and h.sample_id is not null), false) as equal
    from labelled as l
    left join humans as h
        on h.labels_run = l.labels_run and h.humans_run = l.humans_run and h.sample_id = l.sample_id
        and h.steps = l.steps and (h.kind, h.labeler) <> (l.kind, l.labeler)
    group by all
),
labelers as (
    select distinct labels_run, humans_run, kind, labeler from labelled
),
missed as (
    select distinct r.labels_run, r.humans_run, r.kind, r.labeler, h.source, h.sample_id
    from labelers as r
    join humans as h
        on h.labels_run = r.labels_run and h.humans_run = r.humans_run and (h.kind, h.labeler) <> (r.kind, r.labeler)
    anti join labelled as l
        on l.labels_run = r.labels_run and l.humans_run = r.humans_run and l.kind = r.kind and l.labeler = r.labeler
        and l.sample_id = h.sample_id
),
items as (
    select
        labels_run, humans_run, kind, labeler, source, sample_id, valid,
        case when not seen then 'unseen' when wrong and sound then 'disputed' when wrong then 'error' else 'correct' end
            as truth,
        valid and equal as hit
    from compared
    union all
    select labels_run, humans_run, kind, labeler, source, sample_id, false, 'missed', false from missed
),
counted as (
    select
        labels_run, humans_run, kind, labeler, source,
        count(*) filter (where truth <> 'missed') as n_labels,
        count(*) filter (where truth <> 'missed' and not valid) as n_invalid,
        count(distinct sample_id) filter (where truth = 'disputed') as n_disputed,
        count(distinct sample_id) filter (where truth = 'unseen') as n_without_human,
        count(*) filter (where truth = 'missed') as n_unlabelled,
        count(*) filter (where truth = 'error') as n_error,
        count(*) filter (where truth = 'error' and valid) as n_error_valid,
        count(*) filter (where truth = 'error' and hit) as n_error_right,
        count(distinct sample_id) filter (where truth = 'error') as error_samples,
        count(distinct sample_id) filter (where truth = 'error' and valid) as error_valid_samples,
        count(*) filter (where truth = 'correct') as n_correct,
        count(*) filter (where truth = 'correct' and valid) as n_correct_valid,
        count(*) filter (where truth = 'correct' and hit) as n_correct_right,
        count(distinct sample_id) filter (where truth = 'correct') as correct_samples,
        count(distinct sample_id) filter (where truth = 'correct' and valid) as correct_valid_samples
    from items
    group by grouping sets ((labels_run, humans_run, kind, labeler, source), (labels_run, humans_run, kind, labeler))
)
select * from counted order by labels_run, humans_run, kind, labeler, source nulls last
