-- The first row of the file that cannot be imported as it is, and why; no row if there is none.
-- `numbered` is what samples_import.sql selects.
with collisions as (
    select
        file_row,
        row_number() over (partition by problem_id, model, "index" order by file_row) > 1 as repeated
    from numbered
    where reason is null
),

mistakes as (
    select
        file_row,
        'its question is that of several problems; map `problem_id` instead' as mistake
    from numbered
    where problems > 1 and problem_prompts <= 1

    union all

    select
        file_row,
        'its problem has several prompts in the prompts run; name a run with one prompt per problem'
    from numbered
    where problem_prompts > 1

    union all

    select
        file_row,
        'an earlier row has the same problem, model and index; number them apart, or map no `index`'
    from collisions
    where repeated
)

select
    file_row,
    mistake
from mistakes
order by file_row, mistake
limit 1
