-- The first correct sample that would go under a prompt with another prefill than the one that it continues, or whose
-- own prompt is not known (`own` null). `samples`, `rewards`, `own_prompts` and `prompts` are views.
select
    samples.sample_id,
    case when samples.prompt_id is null then '' else own_prompts.prefill end as own,
    prompts.prefill as other
from samples
inner join rewards using (sample_id)
inner join prompts on prompts.problem_id = samples.problem_id
left join own_prompts on own_prompts.prompt_id = samples.prompt_id
where rewards.verdict = 'correct' and own is distinct from other
order by samples.sample_id, other
limit 1
