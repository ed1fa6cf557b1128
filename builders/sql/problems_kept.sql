-- One row per problem, without the columns that all problems of a run share.
select problem_id, question, choices, answer_kind, level, subject
from rows_read
semi join (from placed where outcome = 'problem') using (place)
order by problem_id
