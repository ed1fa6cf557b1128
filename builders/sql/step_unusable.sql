-- One row per sample without a first wrong step, and why. `samples` is a view, `consensus` a table of step_consensus.
select
    samples.problem_id,
    samples.prompt_id,
    samples.sample_id,
    coalesce(consensus.reason, 'unlabeled') as reason,
    coalesce(consensus.detail, '') as detail
from samples
left join consensus using (sample_id)
where consensus.sample_id is null or consensus.reason is not null
order by all
