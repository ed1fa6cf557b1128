-- One row per comparison: the problems that both models answered, by who is right.
with paired as (
    select c.baseline, c.candidate, b.correct as baseline_correct, a.correct as candidate_correct
    from compared as c
    join outcomes as b on b.run = c.baseline
    join outcomes as a on a.run = c.candidate and a.problem_id = b.problem_id
),
counted as (
    select
        baseline, candidate,
        count(*) filter (where candidate_correct and not baseline_correct) as fixed,
        count(*) filter (where baseline_correct and not candidate_correct) as broken,
        count(*) filter (where baseline_correct and candidate_correct) as both_right,
        count(*) filter (where not baseline_correct and not candidate_correct) as both_wrong
    from paired
    group by baseline, candidate
)
select * from counted order by baseline, candidate
