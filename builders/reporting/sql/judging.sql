-- One row per judged model (by its place in params): margins of the pairs that both of its reference runs have scored.
with margins as (
    select
        j.place,
        j.beta::double * (c.logprob - start_c.logprob) as chosen_reward,
        j.beta::double * (r.logprob - start_r.logprob) as rejected_reward,
        j.beta::double * ((c.logprob - start_c.logprob) - (r.logprob - start_r.logprob)) as margin
    from judging as j
    join run_inputs as i on i."table" = 'reference_logprobs' and i.input_table = 'pairs' and i.run = j.model
    join pairs as p on p.run = i.input_run
    left join reference_logprobs as c
        on c.run = j.model and c.prompt_id = p.prompt_id and c.sample_id = p.chosen_sample_id
        and c."start" = p.chosen_start and c."end" = p.chosen_end and c.eos = p.chosen_eos
    left join reference_logprobs as r
        on r.run = j.model and r.prompt_id = p.prompt_id and r.sample_id = p.rejected_sample_id
        and r."start" = p.rejected_start and r."end" = p.rejected_end and r.eos = p.rejected_eos
    left join reference_logprobs as start_c
        on start_c.run = j."start" and start_c.prompt_id = p.prompt_id and start_c.sample_id = p.chosen_sample_id
        and start_c."start" = p.chosen_start and start_c."end" = p.chosen_end and start_c.eos = p.chosen_eos
    left join reference_logprobs as start_r
        on start_r.run = j."start" and start_r.prompt_id = p.prompt_id and start_r.sample_id = p.rejected_sample_id
        and start_r."start" = p.rejected_start and start_r."end" = p.rejected_end and start_r.eos = p.rejected_eos
)
select
    place,
    count(*) as n_pairs,
    count(margin) as n,
    count(*) filter (where margin > 0) as n_right,
    avg(margin) as margin,
    stddev_samp(margin) / sqrt(count(margin)) as margin_se,
    avg(chosen_reward) filter (where margin is not null) as chosen_reward,
    avg(rejected_reward) filter (where margin is not null) as rejected_reward
from margins
group by place
order by place::integer
