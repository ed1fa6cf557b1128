-- One row per labelled sample whose process is wrong: more of its valid labels find a wrong step than find none.
-- `labels` is a view of step labels.
select sample_id
from labels
group by sample_id
having count(*) filter (where verdict = 'error') > count(*) filter (where verdict = 'no_error')
order by sample_id
