-- One row per row of `changes` that something explains: the first of its facts, from the problem down to the limits of
-- its own stage (`place`). The tables `…_only` hold, by `side`, what only that version has of the runs behind the rows.
-- $own, $problems, $prompts: what differs in the settings of the rows' own run, and of those runs behind it, as
-- `sample_settings` says of every run of samples and `reject_settings` of every reason of a reject;
-- $inputs: what the rows' stage read otherwise (null where rows are traced by their ids); $least: pairs per prompt of the version that has fewer (null: not changed), as $limit says; $table: whose rows;
-- $guarded: whether their stage reads labels only to drop right samples with a wrong step.
with sides_of_rows as (
  select n, 1 as slot, rejected_sample_id as sample_id from changes where rejected_sample_id is not null
  union all
  select n, 2, sample_id from changes where sample_id is not null
),
refs as (
  select n, slot, sample_id, left(sample_id, length(sample_id) - 14) as own_id from sides_of_rows
),

-- what happened to each problem, prompt and sample
problem_facts as (
  select problem_id, 'problem' as reason,
    coalesce($problems, case when any_value(side) = 'a' then 'gone' else 'new' end) as detail
  from problems_only
  group by problem_id
  having count(distinct side) = 1
),
asked_instead as (
  select side, left(prompt_id, 16) as problem_id, arg_min(prompts_only, prompt_id) as other from prompts_only group by all
),
prompt_pairs as (
  select p.prompt_id, p.side, case p.side when 'a' then p else i.other end as old,
    case p.side when 'a' then i.other else p end as new, i.other is not null as is_replaced
  from (select * from prompts_only qualify count(*) over (partition by prompt_id) = 1) as p
  left join asked_instead as i on i.problem_id = left(p.prompt_id, 16) and i.side <> p.side
),
prompt_facts as (
  select prompt_id, 'prompt' as reason,
    case
      when not is_replaced then coalesce($prompts, case side when 'a' then 'no longer asked' else 'newly asked' end)
      when old.template <> new.template then 'template ' || old.template || ' -> ' || new.template
      when old.rendering <> new.rendering then 'rendering ' || old.rendering || ' -> ' || new.rendering
      when old.prefill <> new.prefill then 'prefill'
      when old.demo_sample_ids is distinct from new.demo_sample_ids then 'demonstrations'
      else 'messages'
    end as detail
  from prompt_pairs
),
sample_rows as (
  select *, left(sample_id, length(sample_id) - 14) as own_id, left(right(sample_id, 13), 8) as request from samples_only
),
drawn_instead as (
  select side, own_id, arg_min(sample_rows, sample_id) as other from sample_rows group by all
),
sample_pairs as (
  select
    s.sample_id, s.own_id, s.side, s.run, t.sample_id is not null as is_both,
    coalesce(t.sample_id, i.other.sample_id) is not null as is_replaced,
    case when s.side = 'a' then s else coalesce(case when t.sample_id is not null then t end, i.other) end as old,
    case when s.side = 'b' then s else coalesce(case when t.sample_id is not null then t end, i.other) end as new
  from sample_rows as s
  left join sample_rows as t on t.sample_id = s.sample_id and t.side <> s.side
  left join drawn_instead as i on i.own_id = s.own_id and i.side <> s.side
),
sample_facts as (
  select
    sample_id, own_id,
    case when is_both and old.text_hash <> new.text_hash then 'text' else 'sample' end as reason,
    case
      when is_both and old.text_hash <> new.text_hash then 'another text under the same id'
      when not is_replaced or (not is_both and old.request = new.request)
        then coalesce(settings.detail, case side when 'a' then 'dropped' else 'new' end)
      else coalesce(
        nullif(concat_ws('; ',
          case when old.model_fingerprint <> new.model_fingerprint
            then 'model ' || old.model || ' ' || left(old.model_fingerprint, 8) || ' -> ' || new.model || ' '
              || left(new.model_fingerprint, 8) end,
          case when old.seed is distinct from new.seed
            then 'seed ' || coalesce(old.seed::varchar, 'none') || ' -> ' || coalesce(new.seed::varchar, 'none') end,
          case when old.temperature is distinct from new.temperature
            then 'temperature ' || coalesce(old.temperature::varchar, 'none') || ' -> '
              || coalesce(new.temperature::varchar, 'none') end,
          case when old.top_p is distinct from new.top_p
            then 'top_p ' || coalesce(old.top_p::varchar, 'none') || ' -> ' || coalesce(new.top_p::varchar, 'none') end
        ), ''),
        settings.detail, 'request'
      )
    end as detail
  from sample_pairs
  left join sample_settings as settings on settings.run = sample_pairs.run
  where not is_both or side = 'a'
),

-- what was found about each sample, and what each labeler said
prediction_facts as (
  select
    sample_id,
    case
      when a.extractor || a.extractor_version <> b.extractor || b.extractor_version
        then 'extractor ' || concat_ws(' ', a.extractor, a.extractor_version) || ' -> '
          || concat_ws(' ', b.extractor, b.extractor_version)
      else 'extracted answer'
    end as detail
  from (select * from predictions_only where side = 'a') as a
  join (select * from predictions_only where side = 'b') as b using (sample_id)
),
verdicts as (
  select
    coalesce(a.sample_id, b.sample_id) as sample_id,
    coalesce(a.verdict, 'none') as old, coalesce(b.verdict, 'none') as new,
    case when a.checker || a.checker_version <> b.checker || b.checker_version
      then 'checker ' || concat_ws(' ', a.checker, a.checker_version) || ' -> '
        || concat_ws(' ', b.checker, b.checker_version) end as checker
  from (select * from rewards_only where side = 'a') as a
  full join (select * from rewards_only where side = 'b') as b on a.sample_id = b.sample_id
),
verdict_facts as (
  select
    v.sample_id, left(v.sample_id, length(v.sample_id) - 14) as own_id, 'verdict' as reason,
    concat_ws(': ', case when old <> new then old || ' -> ' || new end,
      coalesce(p.detail, case when g.problem_id is not null then 'gold answer' end, v.checker)) as detail
  from verdicts as v
  left join prediction_facts as p on p.sample_id = v.sample_id
  left join (select distinct problem_id from answers_only) as g on g.problem_id = left(v.sample_id, 16)
  union all
  select sample_id, left(sample_id, length(sample_id) - 14), 'verdict', detail
  from prediction_facts
  where $table = 'predictions'
),
label_sides as (
  select
    sample_id, side,
    array_to_string(list_sort(list(distinct labeler)), ', ') as labelers,
    array_to_string(list_sort(list(distinct model) filter (where model is not null)), ', ') as models,
    array_to_string(list_sort(list(distinct template) filter (where template is not null)), ', ') as templates,
    array_to_string(list_sort(list(distinct labeler_version)), ', ') as versions,
    array_to_string(list_sort(list(distinct kind)), ', ') as kinds
  from step_labels_only
  group by all
),
label_facts as (
  select
    coalesce(a.sample_id, b.sample_id) as sample_id,
    left(coalesce(a.sample_id, b.sample_id), length(coalesce(a.sample_id, b.sample_id)) - 14) as own_id,
    'label' as reason, a.sample_id is null or b.sample_id is null as is_one_sided,
    case
      when b.sample_id is null then 'no longer labelled by ' || a.labelers
      when a.sample_id is null then 'newly labelled by ' || b.labelers
      when a.kinds <> b.kinds then a.kinds || ' ' || a.labelers || ' -> ' || b.kinds || ' ' || b.labelers
      when a.models <> b.models then 'judge ' || a.models || ' -> ' || b.models
      when a.templates <> b.templates then 'template ' || a.templates || ' -> ' || b.templates
      when a.versions <> b.versions then 'version of ' || b.labelers || ' ' || a.versions || ' -> ' || b.versions
      when a.labelers <> b.labelers then 'labeler ' || a.labelers || ' -> ' || b.labelers
      else b.kinds || ' ' || b.labelers
    end as detail
  from (select * from label_sides where side = 'a') as a
  full join (select * from label_sides where side = 'b') as b on a.sample_id = b.sample_id
),

-- whether two runs agree on a problem
agreement_facts as (
  select
    problem_id,
    case
      when a.problem_id is null then 'newly compared'
      when b.problem_id is null then 'no longer compared'
      when a.agrees and not b.agrees then 'agreed -> disagrees'
      when b.agrees and not a.agrees then 'disagreed -> agrees'
      when a.kept <> b.kept then 'top-up'
      else 'other answers'
    end as detail
  from (select * from agreements_only where side = 'a') as a
  full join (select * from agreements_only where side = 'b') as b using (problem_id)
),

-- what most samples of a prompt state
vote_sides as (
  select side, prompt_id, format('{} ({} of {})', coalesce(answer, 'none'), "count", n) as said from votes_only
),
vote_facts as (
  select prompt_id, 'vote' as reason, coalesce(a.said, 'none') || ' -> ' || coalesce(b.said, 'none') as detail
  from (select * from vote_sides where side = 'a') as a
  full join (select * from vote_sides where side = 'b') as b using (prompt_id)
),

-- what happened to other samples of the same prompt (of pairs) or problem (of the rest)
happened as (
  select own_id, 1 as place, sample_id, reason, detail from sample_facts
  union all
  select own_id, 2, sample_id, reason, detail from verdict_facts
  union all
  select own_id, 3, sample_id, reason, detail from label_facts
),
around as (
  select case when $table = 'pairs' then own_id else left(own_id, 16) end as id,
    arg_min({'reason': reason, 'detail': detail}, {'place': place, 'id': sample_id}) as first
  from happened
  group by all
),
reach as (
  select n, prompt_id as id from changes where $table = 'pairs'
  union
  select n, own_id from refs where $table = 'pairs'
  union
  select n, problem_id from changes
),

-- candidates that the other version's own stage dropped
dropped as (
  select *,
    nullif(regexp_extract(detail, ', rank ([0-9]+)$', 1), '')::integer as at_rank,
    case when starts_with(detail, 'against ') then substr(detail, 9) end as against
  from rejects_only
),
drops as (
  select c.n, d.reason, d.sample_id, d.sample_id is null and d.at_rank is null and d.reason <> 'held_out' as is_of_prompt
  from changes as c
  join dropped as d on d.problem_id = c.problem_id and d.side = case c.change when 'added' then 'a' else 'b' end
  where c.change <> 'changed'
    and case
      when d.sample_id is not null
        then d.sample_id in (c.sample_id, c.rejected_sample_id) and coalesce(d.against = c.rejected_sample_id, true)
      when d.prompt_id is not null then d.prompt_id = c.prompt_id and coalesce(d.at_rank = c.rank, true)
      else $table in ('prompts', 'problems', 'answers', 'solutions')
    end
),

-- what labelers said of the rows' own samples; where a wrong step only drops a right one, of those that it dropped
own_labels as (
  select n, slot, reason, detail, is_one_sided
  from refs
  join label_facts using (sample_id)
  where not $guarded
    or exists (from drops where drops.n = refs.n and drops.sample_id = refs.sample_id and drops.reason = 'wrong_step')
),

facts as (
  select n, 10 as place, reason, detail from changes join problem_facts using (problem_id)
  union all
  select n, 10 * slot + 11, reason, detail from refs join prompt_facts on prompt_id = own_id
  union all
  select n, 10 * slot + 12, reason, detail from refs join sample_facts using (sample_id)
  union all
  select n,
    case
      when $guarded then case when exists (from reject_settings where reason = 'wrong_step') then 62 else 59 end
      when is_one_sided and $table = 'step_labels' then 82
      when slot = 1 then 23
      else 50
    end, reason, detail
  from own_labels
  union all
  select n, 40 + slot, reason, detail from refs join verdict_facts using (sample_id)
  union all
  select n, case when $table = 'prompts' then 75 else 55 end, reason, detail from changes join prompt_facts using (prompt_id)
  union all
  select n, 58, 'agreement', detail from changes join agreement_facts using (problem_id)
  where $table in ('demos', 'rejects')
  union all
  select n, case when $table = 'rewards' then 39 else 57 end, v.reason, v.detail
  from changes as c
  join vote_facts as v on v.prompt_id = coalesce(c.prompt_id, left(c.sample_id, 25))
  where $table in ('pairs', 'rewards', 'rejects')
  union all
  select n, 60, case when s.detail is null then 'rejected' else 'params' end, coalesce(s.detail, d.reason)
  from drops as d
  left join reject_settings as s using (reason)
  where not is_of_prompt
  union all
  select n, 65, 'params', $limit from changes where change <> 'changed' and rank >= $least
  union all
  select n, 70, case when $table in ('pairs', 'demos') then 'regrouped' else first.reason end,
    case when $table in ('pairs', 'demos') then 'another sample: ' || first.detail else first.detail end
  from reach join around using (id)
  union all
  select n, 78, 'model', what from changes where $table = 'reference_logprobs' and what like '%fingerprint%'
  union all
  select n, 80, 'params', $own from changes where $own is not null
  union all
  select n, 85, 'rejected', reason from drops where is_of_prompt
  union all
  select n, 90, 'input', $inputs from changes where $inputs is not null
)
select n, arg_min({'reason': reason, 'detail': detail}, {'place': place, 'detail': detail}) as first
from facts
group by n
