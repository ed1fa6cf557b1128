-- One row per human solution of the style, or per problem without one: its text and the ending, or why there is none.
-- `problems`, `solutions` and `answers` are views; $style, $ending and $body are the run's.
-- The head of a program is `def solution():` and its docstring, whatever that says: the prompt's prefill has the question.
with written as (
    select
        problem_id,
        "index",
        case
            when $body then nullif(regexp_extract(text, '(?s)^def solution\(\):\n(?:    """.*?"""\n)?(.*)$', 1), '')
            else text
        end as text
    from solutions
    where style = $style
),

stated as (
    select
        problems.problem_id,
        written."index",
        written.text,
        answers.answer,
        case
            when written.text is null then 'no_solution'
            when answers.answer is null and contains($ending, '{answer}') then 'no_answer'
        end as reason
    from problems
    left join written using (problem_id)
    left join answers using (problem_id)
)

select
    problem_id,
    "index",
    text,
    replace($ending, '{answer}', coalesce(answer, '')) as ending,
    reason
from stated
order by problem_id, "index"
