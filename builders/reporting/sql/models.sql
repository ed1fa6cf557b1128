-- One row per evaluated run: counts over its problems.
with counted as (
    select
        run,
        min(model_fingerprint) as model_fingerprint,
        count(*) as n,
        count(*) filter (where correct) as n_correct,
        count(*) filter (where verdict = 'wrong') as n_wrong,
        count(*) filter (where verdict = 'no_answer') as n_no_answer,
        count(*) filter (where verdict = 'undecided') as n_undecided,
        count(*) filter (where finish_reason = 'length') as n_truncated,
        coalesce(sum(n_tokens), 0)::bigint as n_tokens,
        max(k) as k,
        coalesce(sum(k), 0)::bigint as n_sampled,
        coalesce(sum(k_correct), 0)::bigint as n_sampled_correct,
        count(*) filter (where majority_correct) as n_majority,
        count(*) filter (where k_correct > 0) as n_passed
    from outcomes
    group by run
)
select * from counted order by run
