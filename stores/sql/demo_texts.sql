-- One row per fine-tuning example: the prompt and the completion to imitate.
with prompt_at as not materialized (
  select d.run, d.prompt_id, d.sample_id, min(q.run) as prompt_run
  from demos d
  join run_sources e on e."table" = 'demos' and e.run = d.run and e.input_table = 'prompts'
  join prompts q on q.run = e.input_run and q.prompt_id = d.prompt_id
  group by all
),
sample_at as not materialized (
  select d.run, d.prompt_id, d.sample_id, min(s.run) as sample_run
  from demos d
  join run_sources e on e."table" = 'demos' and e.run = d.run and e.input_table = 'samples'
  join samples s on s.run = e.input_run and s.sample_id = d.sample_id
  group by all
)
select
  d.run, d.prompt_id, d.sample_id, s.problem_id,
  q.messages, q.prefill, q.rendering, s.text, s.finish_reason, prompt_run, sample_run
from demos d
left join prompt_at using (run, prompt_id, sample_id)
left join sample_at using (run, prompt_id, sample_id)
left join prompts q on q.run = prompt_run and q.prompt_id = d.prompt_id
left join samples s on s.run = sample_run and s.sample_id = d.sample_id
