-- One row per solution of a range of problems.
select
    numbered.problem_id, style, index, case style when 'natural' then solution else program end as text
from (from numbered where problem_id between $first and $last) as numbered
join texts using (place)
order by numbered.problem_id, style, index
