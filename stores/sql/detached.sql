-- One row per run of step pairs: how many {side} spans do not begin where the pair's prompt ends. It ends where the
-- prefill of the sample's own prompt and the sample's text before the span do, which has the same messages.
with prompt_sources as (
  select distinct e.run, q.prompt_id, q.messages, q.prefill, q.rendering
  from run_sources e
  join prompts q on q.run = e.input_run
  where e."table" = 'pairs' and e.input_table = 'prompts' and e.run in ({runs})
),
sample_sources as (
  select distinct e.run, s.sample_id, s.prompt_id, s.text
  from run_sources e
  join samples s on s.run = e.input_run
  where e."table" = 'pairs' and e.input_table = 'samples' and e.run in ({runs})
)
select p.run, count(*) as n, min(p.prompt_id) as example
from pairs p
join prompt_sources asked on asked.run = p.run and asked.prompt_id = p.prompt_id
join sample_sources s on s.run = p.run and s.sample_id = p.{side}_sample_id
join prompt_sources own on own.run = p.run and own.prompt_id = s.prompt_id
where asked.messages <> own.messages
  or asked.rendering <> own.rendering
  or asked.prefill <> own.prefill || left(s.text, p.{side}_start)
group by p.run
order by p.run
