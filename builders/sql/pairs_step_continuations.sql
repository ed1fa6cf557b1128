-- One row per continuation: whether its first step may be chosen (`reason` null), or why not. `chosen`, `rewards` and
-- `step_prompts` are views, `matches` is a table of step_matches, `judged` one of step_consensus.
-- $rewarded: whether there are rewards (else all continuations count as correct); $judged: whether there are labels.
select
    chosen.sample_id,
    chosen.prompt_id,
    chosen.problem_id,
    chosen."index",
    chosen.n_chars,
    chosen.n_prompt_tokens + chosen.n_tokens as n_tokens,
    chosen.finish_reason <> 'length' as is_finished,
    chosen.text_hash,
    case when $rewarded then rewards.verdict else 'correct' end as verdict,
    case
        when chosen.prompt_id not in (select matches.step_prompt_id from matches) then 'no_rejected'
        when $rewarded and rewards.verdict <> 'correct' then rewards.verdict
        when not $judged then null
        when judged.sample_id is null then 'unlabeled'
        when judged.reason is null then 'wrong_step'
        when judged.reason <> 'no_error' then judged.reason
    end as reason,
    case
        when $rewarded and rewards.verdict <> 'correct' then ''
        when $judged and judged.sample_id is not null and judged.reason is null
            then format('step {}', judged.first_error + 1)
        else coalesce(judged.detail, '')
    end as detail
from chosen
left join rewards using (sample_id)
left join judged using (sample_id)
