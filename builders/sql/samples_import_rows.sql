-- One row per sample, in the order of sample_id: prompt (or problem), model fingerprint, index.
-- `numbered` is what samples_import.sql selects, `models` the fingerprint of each model's name.
select
    numbered.prompt_id,
    numbered.problem_id,
    numbered.model,
    models.fingerprint as model_fingerprint,
    numbered."index",
    imported.text,
    imported.finish_reason
from numbered
inner join imported using (file_row)
inner join models on numbered.model = models.model
where numbered.reason is null
order by coalesce(numbered.prompt_id, numbered.problem_id), left(models.fingerprint, 8), numbered."index"
