-- One row per text that is asked more than once: the same messages and the same start of the answer, whatever the rendering.
-- $across = 'prompts': what has it more than once: 'prompts' (ids), 'problems', or 'runs' (such as a run and a part of it)
-- $limit = 1000: most rows
with asked as (
  select run, prompt_id, problem_id, messages, md5(messages::varchar || chr(31) || prefill) as text_hash
  from prompts
),
texts as (
  select
    text_hash,
    count(distinct prompt_id) as n_prompts,
    count(distinct problem_id) as n_problems,
    count(distinct run) as n_runs,
    list_sort(list(distinct run)) as runs,
    list_sort(list(distinct prompt_id)) as prompt_ids,
    arg_min(left(messages[-1].content, 200), prompt_id) as begins
  from asked
  group by text_hash
)
select n_prompts, n_problems, n_runs, runs, prompt_ids, begins
from texts
where case $across
  when 'prompts' then n_prompts
  when 'problems' then n_problems
  when 'runs' then n_runs
  else error('across: give ''prompts'', ''problems'' or ''runs''')
end > 1
order by n_prompts desc, n_runs desc, prompt_ids
limit $limit
