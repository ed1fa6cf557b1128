-- One row per samples run: completions, how many were cut off, lengths in tokens (median, 90 %, 99 %, longest).
-- Tokens are those of the model that wrote them, or whose tokenizer the run names; runs without counts are left out.
with measured as (
    select run, n_prompt_tokens, n_tokens, n_prompt_tokens + n_tokens as total, finish_reason = 'length' as cut
    from samples
    where n_tokens is not null
)
select
    run,
    count(*) as n,
    count(*) filter (where cut) as n_truncated,
    quantile_disc(n_prompt_tokens, [0.5, 0.9, 0.99, 1]) as prompt,
    quantile_disc(n_tokens, [0.5, 0.9, 0.99, 1]) as completion,
    quantile_disc(total, [0.5, 0.9, 0.99, 1]) as both
from measured
group by run
order by run
