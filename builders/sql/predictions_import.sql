-- One row per row of the file and sample that it fits (at least one per row, `sample_id` null where it fits none), or
-- why it fits none (`reason`). `imported` is the file, `problem_keys` the problems by what the file names them with,
-- `samples` a view. $indexed: whether the file's index must be the sample's, too.
select
    imported.file_row,
    imported.prediction,
    problem_keys.problem_id,
    samples.sample_id,
    case
        when problem_keys.problem_id is null then 'unknown_problem'
        when samples.sample_id is null then 'unpaired'
    end as reason
from imported
left join problem_keys using (problem_key)
left join samples
    on
        problem_keys.problem_id = samples.problem_id
        and imported.text = samples.text
        and (not $indexed or imported."index" = samples."index")
