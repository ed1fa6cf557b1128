-- One row per problem of a range, without the columns that all problems of a run share.
select problem_id, question, choices, answer_kind, level, subject
from texts
semi join (from placed where outcome = 'problem' and problem_id between $first and $last) using (place)
order by problem_id
