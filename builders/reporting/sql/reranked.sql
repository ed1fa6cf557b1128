-- One row per (scores run, evaluated run): problems whose answer is correct when a reward model chooses it among the
-- sampled completions: the one that it is surest of, or the answer with the greatest sum of scores. Only completions
-- that state an answer are candidates (`undecided: …` is none); ties go to the lowest index, or the answer that was
-- given first; one without a score is not chosen and weighs nothing.
with candidates as (
    select
        i.run as scores, s.run, s.problem_id, s.index, s.sample_id, c.score,
        if(p.extracted like 'undecided: %', '', coalesce(p.normalised, p.extracted, '')) as prediction,
        r.verdict = 'correct' as correct
    from run_inputs as i
    join evaluated as e on e.run = i.input_run
    join samples as s on s.run = e.run
    join predictions as p on p.run = s.run and p.sample_id = s.sample_id
    join rewards as r on r.run = s.run and r.sample_id = s.sample_id
    left join scores as c on c.run = i.run and c.sample_id = s.sample_id
    where i."table" = 'scores' and i.slot = 'samples' and s.temperature > 0 and prediction <> ''
),
surest as (
    select scores, run, problem_id, correct
    from candidates
    where score is not null
    qualify row_number() over (partition by scores, run, problem_id order by score desc, index, sample_id) = 1
),
ballots as (
    select
        scores, run, problem_id, prediction,
        sum(score order by sample_id) as weight, min(index) as first_index, bool_or(correct) as correct
    from candidates
    group by all
    having count(score) > 0
),
heaviest as (
    select scores, run, problem_id, correct
    from ballots
    qualify row_number() over (partition by scores, run, problem_id order by weight desc, first_index, prediction) = 1
),
solved as (
    select scores, run, s.correct as surest_correct, h.correct as heaviest_correct
    from surest as s
    join heaviest as h using (scores, run, problem_id)
),
built as (
    select distinct i.run as scores, i.input_run as run
    from run_inputs as i
    join evaluated as e on e.run = i.input_run
    join runs as b on b."table" = 'scores' and b.run = i.run
    where i."table" = 'scores' and i.slot = 'samples'
)
select
    b.scores, b.run,
    count(*) filter (where s.surest_correct) as n_reranked,
    count(*) filter (where s.heaviest_correct) as n_weighted
from built as b
left join solved as s using (scores, run)
group by b.scores, b.run
order by b.scores, b.run
