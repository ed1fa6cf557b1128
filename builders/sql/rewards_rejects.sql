-- One row per sample whose problem has no gold answer: its verdict is `undecided`, and this says why.
select
    left(predictions.sample_id, 16) as problem_id,
    null::varchar as prompt_id,
    predictions.sample_id,
    'no_answer' as reason,
    'the problem has no gold answer' as detail
from predictions
where left(predictions.sample_id, 16) not in (select answers.problem_id from answers)
order by all
