-- One row per (evaluated run, problem): the verdict on its greedy completion, and what its k sampled ones say. Greedy
-- completions have temperature 0. An answer that was not found, or that a program did not come to (`undecided: …`),
-- does not vote; ties go to the answer that was given first; where nothing votes the majority is not correct.
with answered as (
    select
        s.run, s.problem_id, s.sample_id, s.index, s.temperature = 0 as greedy,
        s.model_fingerprint, s.n_tokens, s.finish_reason,
        r.verdict, if(p.extracted like 'undecided: %', '', coalesce(p.normalised, p.extracted, '')) as prediction
    from samples as s
    join evaluated using (run)
    join predictions as p using (run, sample_id)
    join rewards as r using (run, sample_id)
),
greedy as (
    select
        run, problem_id,
        arg_min(verdict, sample_id) as verdict,
        arg_min(n_tokens, sample_id) as n_tokens,
        arg_min(finish_reason, sample_id) as finish_reason,
        arg_min(model_fingerprint, sample_id) as model_fingerprint
    from answered
    where greedy
    group by all
),
sampled as (
    select run, problem_id, count(*) as k, count(*) filter (where verdict = 'correct') as k_correct
    from answered
    where not greedy
    group by all
),
ballots as (
    select
        run, problem_id, prediction,
        count(*) as votes, min(index) as first_index, bool_or(verdict = 'correct') as correct
    from answered
    where not greedy and prediction <> ''
    group by all
),
majority as (
    select run, problem_id, correct
    from ballots
    qualify row_number() over (partition by run, problem_id order by votes desc, first_index, prediction) = 1
),
solved as (
    select run, problem_id, text
    from solutions
    where style = 'natural'
    qualify row_number() over (partition by run, problem_id order by index) = 1
),
asked as (
    select
        i.run, p.problem_id, p.level, p.subject,
        -- A generated problem's level is its number of steps; a human solution has a step per line. Somebody's own
        -- file may be called as ours, with levels of another kind.
        if(p.source = 'arithmetic' and try_cast(p.level as integer) is not null, try_cast(p.level as integer),
            len(list_filter(string_split(s.text, chr(10)), lambda line: trim(line) <> ''))) as n_steps
    from run_inputs as i
    join problems as p on p.run = i.input_run
    left join solved as s on s.run = p.run and s.problem_id = p.problem_id
    where i."table" = 'samples' and i.slot = 'problems'
)
select
    g.run, g.problem_id, g.verdict, g.verdict = 'correct' as correct, g.n_tokens, g.finish_reason, g.model_fingerprint,
    a.level, a.subject, a.n_steps, coalesce(s.k, 0) as k, coalesce(s.k_correct, 0) as k_correct, coalesce(m.correct, false) as majority_correct
from greedy as g
left join sampled as s using (run, problem_id)
left join majority as m using (run, problem_id)
left join asked as a using (run, problem_id)
order by g.run, g.problem_id
