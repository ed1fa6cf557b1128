-- One row per pair: the prompt, and the texts of both spans.
with prompt_at as not materialized (
  select p.run, p.prompt_id, p.rank, min(q.run) as prompt_run
  from pairs p
  join run_sources e on e."table" = 'pairs' and e.run = p.run and e.input_table = 'prompts'
  join prompts q on q.run = e.input_run and q.prompt_id = p.prompt_id
  group by all
),
chosen_at as not materialized (
  select p.run, p.prompt_id, p.rank, min(s.run) as chosen_run
  from pairs p
  join run_sources e on e."table" = 'pairs' and e.run = p.run and e.input_table = 'samples'
  join samples s on s.run = e.input_run and s.sample_id = p.chosen_sample_id
  group by all
),
rejected_at as not materialized (
  select p.run, p.prompt_id, p.rank, min(s.run) as rejected_run
  from pairs p
  join run_sources e on e."table" = 'pairs' and e.run = p.run and e.input_table = 'samples'
  join samples s on s.run = e.input_run and s.sample_id = p.rejected_sample_id
  group by all
)
select
  p.pair_id, p.run, p.prompt_id, p.problem_id, p.rank,
  q.messages, q.prefill, q.rendering,
  c.text[p.chosen_start + 1 : p.chosen_end] as chosen, p.chosen_eos,
  r.text[p.rejected_start + 1 : p.rejected_end] as rejected, p.rejected_eos,
  p.chosen_sample_id, p.chosen_start, p.chosen_end, p.rejected_sample_id, p.rejected_start, p.rejected_end,
  prompt_run, chosen_run, rejected_run
from pairs p
left join prompt_at using (run, prompt_id, rank)
left join chosen_at using (run, prompt_id, rank)
left join rejected_at using (run, prompt_id, rank)
left join prompts q on q.run = prompt_run and q.prompt_id = p.prompt_id
left join samples c on c.run = chosen_run and c.sample_id = p.chosen_sample_id
left join samples r on r.run = rejected_run and r.sample_id = p.rejected_sample_id
