-- One row per row of $run of $table that differs between two versions, with its reason.
select
  $table as "table", $run as run, change, coalesce(first.reason, 'other') as reason,
  coalesce(first.detail, 'no recorded cause') as detail, what, problem_id, prompt_id, sample_id, rejected_sample_id, place
from changes
left join reasons using (n)
order by problem_id, prompt_id, sample_id, rejected_sample_id, place, change
