-- One row per problem: its answer.
select problem_id, answer
from rows_read
semi join (from placed where outcome = 'problem') using (place)
order by problem_id
