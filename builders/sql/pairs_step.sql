-- One row per (chosen, rejected) after a prompt: its rank, or why it is no pair (`reason`). `winners` and `losers` are
-- the tables of pairs_step_chosen and pairs_step_rejected. The first continuation comes first, against every wrong step
-- in turn. $max_tokens and $max_per_prompt: null for none.
with pairs as (
    select
        winners.prompt_id,
        winners.problem_id,
        winners."index",
        winners.sample_id as chosen_sample_id,
        winners.span_end as chosen_end,
        winners.is_ended as chosen_eos,
        winners.span_hash as chosen_text_hash,
        losers.sample_id as rejected_sample_id,
        losers.span_start as rejected_start,
        losers.span_end as rejected_end,
        losers.is_ended as rejected_eos,
        losers.span_hash as rejected_text_hash,
        coalesce(greatest(winners.n_tokens, losers.n_tokens) > $max_tokens, false) as is_over_long
    from winners
    inner join losers using (prompt_id)
    where winners.reason is null and losers.reason is null
),

ranked as (
    select
        *,
        row_number() over (
            partition by prompt_id, is_over_long order by "index", chosen_sample_id, rejected_sample_id
        ) - 1 as place
    from pairs
)

select
    prompt_id,
    place::integer as rank,
    problem_id,
    chosen_sample_id,
    0 as chosen_start,
    chosen_end,
    chosen_eos,
    chosen_text_hash,
    rejected_sample_id,
    rejected_start,
    rejected_end,
    rejected_eos,
    rejected_text_hash,
    case when is_over_long then 'over_long' when place >= $max_per_prompt then 'capped' end as reason
from ranked
order by prompt_id, rank, reason
