-- One row per row of the window that is no problem.
select problem_id, null::varchar as prompt_id, null::varchar as sample_id, outcome as reason, detail
from placed
where outcome <> 'problem'
