-- One row per problem with a known answer.
select problem_id, answer
from rows_read
semi join (from placed where outcome = 'problem') using (place)
where answer is not null
order by problem_id
