-- One row per example pair: texts resolved, at most $per_run of each pairs run, from different prompts.
-- The first prompts by id are as good as random ones, since ids are hashes.
with shown as (
    select *
    from pairs
    where rank = 0
    qualify row_number() over (partition by run order by prompt_id) <= $per_run
),
texts as (
    select i.run, s.sample_id, any_value(s.text) as text, any_value(s.model) as model
    from run_sources as i
    join samples as s on s.run = i.input_run
    where
        i."table" = 'pairs' and i.input_table = 'samples'
        and s.sample_id in (select chosen_sample_id from shown union all select rejected_sample_id from shown)
    group by i.run, s.sample_id
),
asked as (
    select i.run, q.prompt_id, any_value(q.messages) as messages, any_value(q.prefill) as prefill
    from run_sources as i
    join prompts as q on q.run = i.input_run
    where i."table" = 'pairs' and i.input_table = 'prompts' and q.prompt_id in (select prompt_id from shown)
    group by i.run, q.prompt_id
)
select
    p.run, p.prompt_id, a.messages, a.prefill,
    c.model as chosen_model, substr(c.text, p.chosen_start + 1, p.chosen_end - p.chosen_start) as chosen, p.chosen_eos,
    r.model as rejected_model, substr(r.text, p.rejected_start + 1, p.rejected_end - p.rejected_start) as rejected, p.rejected_eos
from shown as p
left join asked as a using (run, prompt_id)
left join texts as c on c.run = p.run and c.sample_id = p.chosen_sample_id
left join texts as r on r.run = p.run and r.sample_id = p.rejected_sample_id
order by p.run, p.prompt_id
