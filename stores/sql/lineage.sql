-- One row per (pair, side): the sample behind it, who drew it, what was extracted, the verdict, who labelled its steps.
with sides as not materialized (
  select pair_id, run, prompt_id, rank, 'chosen' as side, chosen_sample_id as sample_id,
    chosen_start as "start", chosen_end as "end", chosen_eos as eos
  from pairs
  union all
  select pair_id, run, prompt_id, rank, 'rejected', rejected_sample_id, rejected_start, rejected_end, rejected_eos
  from pairs
),
sources as not materialized (
  select run, input_table, input_run from run_sources where "table" = 'pairs'
),
prompt_at as not materialized (
  select d.run, d.prompt_id, d.rank, d.side, min(q.run) as prompt_run
  from sides d
  join sources e on e.run = d.run and e.input_table = 'prompts'
  join prompts q on q.run = e.input_run and q.prompt_id = d.prompt_id
  group by all
),
sample_at as not materialized (
  select d.run, d.prompt_id, d.rank, d.side, min(s.run) as sample_run
  from sides d
  join sources e on e.run = d.run and e.input_table = 'samples'
  join samples s on s.run = e.input_run and s.sample_id = d.sample_id
  group by all
),
prediction_at as not materialized (
  select d.run, d.prompt_id, d.rank, d.side, min(p.run) as prediction_run
  from sides d
  join sources e on e.run = d.run and e.input_table = 'predictions'
  join predictions p on p.run = e.input_run and p.sample_id = d.sample_id
  group by all
),
reward_at as not materialized (
  select d.run, d.prompt_id, d.rank, d.side, min(w.run) as reward_run
  from sides d
  join sources e on e.run = d.run and e.input_table = 'rewards'
  join rewards w on w.run = e.input_run and w.sample_id = d.sample_id
  group by all
),
labels_at as not materialized (
  select d.run, d.prompt_id, d.rank, d.side, min(l.run) as label_run,
    list_sort(list(distinct l.labeler)) as labelers,
    list_sort(list(distinct l.model) filter (where l.model is not null)) as label_models,
    list_sort(list(distinct l.labeler_version)) as labeler_versions,
    list_sort(list(distinct l.template) filter (where l.template is not null)) as label_templates
  from sides d
  join sources e on e.run = d.run and e.input_table = 'step_labels'
  join step_labels l on l.run = e.input_run and l.sample_id = d.sample_id
  group by d.run, d.prompt_id, d.rank, d.side
)
select
  d.pair_id, d.run, d.prompt_id, d.rank, d.side, d.sample_id, d."start", d."end", d.eos,
  prompt_run, q.template, q.style, q.rendering,
  sample_run, s.prompt_id as sample_prompt_id, s.model, s.model_fingerprint, s."index", s.seed, s.temperature, s.top_p,
  s.n_tokens, s.finish_reason,
  prediction_run, p.extracted, p.normalised, p.extractor, p.extractor_version,
  reward_run, w.verdict, w.reward, w.checker, w.checker_version,
  label_run, labelers, label_models, labeler_versions, label_templates
from sides d
left join prompt_at using (run, prompt_id, rank, side)
left join sample_at using (run, prompt_id, rank, side)
left join prediction_at using (run, prompt_id, rank, side)
left join reward_at using (run, prompt_id, rank, side)
left join labels_at using (run, prompt_id, rank, side)
left join prompts q on q.run = prompt_run and q.prompt_id = d.prompt_id
left join samples s on s.run = sample_run and s.sample_id = d.sample_id
left join predictions p on p.run = prediction_run and p.sample_id = d.sample_id
left join rewards w on w.run = reward_run and w.sample_id = d.sample_id
