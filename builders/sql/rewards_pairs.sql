-- One row per comparison to make: a checker, an extracted answer and a gold answer.
-- `predictions` and `answers` are views; a sample's problem is the first 16 characters of its id, and an extractor is its
-- checker, a colon and a rule.
with stated as (
    select
        regexp_replace(extractor, ':[^:]*$', '') as checker,
        left(sample_id, 16) as problem_id,
        extracted
    from predictions
    where extracted is not null
)

select distinct
    stated.checker,
    stated.extracted,
    answers.answer as gold
from stated
inner join answers using (problem_id)
order by all
