-- One row per row of the file: what it answers and its number among the rows of its problem and model, or why it is
-- dropped. `imported` is the file, `problem_keys` the problems by what the file names them with, `prompts` a view.
-- Texts are left out, so that the windows stay narrow. Rows that are dropped keep their number.
with matched as (
    select
        imported.file_row,
        imported.model,
        imported."index" as given_index,
        problem_keys.problem_id,
        prompts.prompt_id,
        case
            when problem_keys.problem_id is null then 'unknown_problem'
            when not coalesce(regexp_matches(imported.text, '\S'), false) then 'empty'
            when $asks and prompts.prompt_id is null then 'unknown_prompt'
        end as reason
    from imported
    left join problem_keys using (problem_key)
    left join prompts using (problem_id)
)

select
    file_row,
    model,
    problem_id,
    prompt_id,
    reason,
    coalesce(
        given_index,
        row_number() over (partition by problem_id, model order by file_row) - 1
    )::integer as "index",
    count(*) over (partition by file_row) as problems,
    count(distinct prompt_id) over (partition by problem_id) as problem_prompts
from matched
