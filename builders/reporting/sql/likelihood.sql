-- One row per reference run: how well the log-prob of a span separates the chosen from the rejected side.
-- A span counts once per side, however many pairs it is in. AUROC is the Mann-Whitney statistic with mid-ranks.
with scored_pairs as (
    select i.run, p.* exclude (run)
    from run_inputs as i
    join pairs as p on p.run = i.input_run
    where i."table" = 'reference_logprobs' and i.input_table = 'pairs'
),
sides as (
    select distinct
        run, true as chosen, prompt_id, chosen_sample_id as sample_id,
        chosen_start as "start", chosen_end as "end", chosen_eos as eos
    from scored_pairs
    union all
    select distinct run, false, prompt_id, rejected_sample_id, rejected_start, rejected_end, rejected_eos
    from scored_pairs
),
scored as (
    select s.run, s.chosen, l.logprob as summed, l.logprob / l.n_tokens as per_token
    from sides as s
    join reference_logprobs as l using (run, prompt_id, sample_id, "start", "end", eos)
),
ranked as (
    select
        *,
        rank() over (partition by run order by summed) + (count(*) over (partition by run, summed) - 1) / 2 as summed_rank,
        rank() over (partition by run order by per_token)
            + (count(*) over (partition by run, per_token) - 1) / 2 as per_token_rank
    from scored
),
sums as (
    select
        run,
        count(*) filter (where chosen) as n_chosen,
        count(*) filter (where not chosen) as n_rejected,
        avg(summed) filter (where chosen) as chosen_logprob,
        avg(summed) filter (where not chosen) as rejected_logprob,
        avg(per_token) filter (where chosen) as chosen_logprob_per_token,
        avg(per_token) filter (where not chosen) as rejected_logprob_per_token,
        sum(summed_rank) filter (where chosen) as summed_ranks,
        sum(per_token_rank) filter (where chosen) as per_token_ranks
    from ranked
    group by run
),
both_sides as (
    select
        p.run, c.logprob - r.logprob as summed, c.logprob / c.n_tokens - r.logprob / r.n_tokens as per_token
    from scored_pairs as p
    join reference_logprobs as c
        on c.run = p.run and c.prompt_id = p.prompt_id and c.sample_id = p.chosen_sample_id
        and c."start" = p.chosen_start and c."end" = p.chosen_end and c.eos = p.chosen_eos
    join reference_logprobs as r
        on r.run = p.run and r.prompt_id = p.prompt_id and r.sample_id = p.rejected_sample_id
        and r."start" = p.rejected_start and r."end" = p.rejected_end and r.eos = p.rejected_eos
),
within_pairs as (
    select
        run, count(*) as n_pairs,
        avg((1 + sign(summed)) / 2) as pairs_ordered,
        avg((1 + sign(per_token)) / 2) as pairs_ordered_per_token
    from both_sides
    group by run
)
select
    s.run, w.n_pairs, s.n_chosen, s.n_rejected,
    s.chosen_logprob, s.rejected_logprob, s.chosen_logprob_per_token, s.rejected_logprob_per_token,
    (s.summed_ranks - s.n_chosen * (s.n_chosen + 1) / 2) / (s.n_chosen * s.n_rejected) as auroc,
    (s.per_token_ranks - s.n_chosen * (s.n_chosen + 1) / 2) / (s.n_chosen * s.n_rejected) as auroc_per_token,
    w.pairs_ordered, w.pairs_ordered_per_token
from sums as s
join within_pairs as w using (run)
order by s.run
