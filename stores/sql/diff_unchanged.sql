-- One row per row of `same`, numbered on from those of `changes`, with what it is told by and the spans of its samples.
select
  (select coalesce(max(n), 0) from changes) + row_number() over () as n,
  {problem}::varchar as problem_id, {prompt}::varchar as prompt_id, {sample}::varchar as sample_id,
  {rejected}::varchar as rejected_sample_id, {place}::varchar as place, {rank}::integer as rank, {starts}
from same
