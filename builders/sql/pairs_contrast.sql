-- One row per pair, and one per prompt that gives none, with its `reason`. `samples`, `predictions`, `votes`, `weak` and
-- `weak_predictions` are views. $two_models: whether there is a weak side; $k: most pairs of a prompt; $threshold and
-- $reject_threshold: least confidence, and to reject the weak sample; $max_tokens (null: none); $seed: of the draws.
with weak_sides as (
    select
        weak.problem_id,
        weak_predictions.normalised as answer,
        struct_pack(
            sample_id := weak.sample_id, n_chars := weak.n_chars, n_tokens := weak.n_tokens,
            finish_reason := weak.finish_reason, text_hash := weak.text_hash
        ) as weak_side
    from weak
    inner join weak_predictions using (sample_id)
    qualify row_number() over (partition by weak.problem_id order by weak.sample_id) = 1
),

asked as (
    select prompt_id, any_value(problem_id) as problem_id, any_value(n_prompt_tokens) as n_prompt_tokens
    from samples
    group by prompt_id
),

-- One row per prompt: what becomes of it (`fate`), or why nothing does.
cases as (
    select
        asked.*,
        votes.answer,
        votes.count as n_agree,
        votes.n,
        weak_sides.weak_side,
        case
            when votes.confidence < $threshold then 'low_confidence'
            when votes.answer is null then 'no_answer'
            when not $two_models then 'own'
            when weak_sides.problem_id is null then 'unpaired'
            when weak_sides.answer = votes.answer then if(weak_side.n_chars = 0, 'empty', 'weak_chosen')
            when votes.confidence < $reject_threshold then 'below_reject_threshold'
            when weak_side.n_chars = 0 and weak_side.finish_reason = 'length' then 'empty'
            else 'weak_rejected'
        end as fate
    from asked
    left join votes using (prompt_id)
    left join weak_sides on asked.problem_id = weak_sides.problem_id
),

-- One row per sample of the strong model that may be a side.
eligible as (
    select
        samples.prompt_id,
        cases.fate,
        coalesce(predictions.normalised = cases.answer, false) as wins,
        samples."index",
        samples.text_hash,
        md5($seed || samples.sample_id) as lot,
        struct_pack(
            sample_id := samples.sample_id, n_chars := samples.n_chars, n_tokens := samples.n_tokens,
            finish_reason := samples.finish_reason, text_hash := samples.text_hash
        ) as side
    from samples
    inner join predictions using (sample_id)
    inner join cases using (prompt_id)
    where
        (samples.n_chars > 0 or (not wins and samples.finish_reason <> 'length'))
        and (fate = 'own' or (fate = 'weak_chosen' and not wins) or (fate = 'weak_rejected' and wins))
),

drawn as (
    select *, row_number() over by_lot as draw, first_value(text_hash) over by_lot as first_text
    from eligible
    window by_lot as (partition by prompt_id, wins order by lot)
),

placed as (
    select
        prompt_id,
        wins,
        side,
        row_number() over (
            partition by prompt_id, wins
            order by if(fate = 'weak_rejected' and draw > 1, "index" + 2, draw), side.sample_id
        ) as place
    from drawn
    where fate <> 'weak_rejected' or draw = 1 or text_hash <> first_text
    qualify place <= $k
),

own_sides as (
    select
        prompt_id,
        place,
        any_value(side) filter (where wins) as winner,
        any_value(side) filter (where not wins) as loser
    from placed
    group by prompt_id, place
),

sided as (
    select
        cases.*,
        (place - 1)::integer as rank,
        if(fate = 'weak_chosen', weak_side, winner) as chosen,
        if(fate = 'weak_rejected', weak_side, loser) as rejected
    from cases
    inner join own_sides using (prompt_id)
),

paired as (
    select
        *,
        if(
            chosen.n_tokens is not null and rejected.n_tokens is not null,
            n_prompt_tokens + greatest(chosen.n_tokens, rejected.n_tokens), null
        ) as longest
    from sided
    where chosen is not null and rejected is not null
)

select
    cases.prompt_id,
    paired.rank,
    cases.problem_id,
    chosen.sample_id as chosen_sample_id,
    0::integer as chosen_start,
    chosen.n_chars as chosen_end,
    chosen.finish_reason <> 'length' as chosen_eos,
    rejected.sample_id as rejected_sample_id,
    0::integer as rejected_start,
    rejected.n_chars as rejected_end,
    rejected.finish_reason <> 'length' as rejected_eos,
    chosen.text_hash as chosen_text_hash,
    rejected.text_hash as rejected_text_hash,
    longest,
    case
        when cases.fate = 'below_reject_threshold' then 'low_confidence'
        when cases.fate not in ('own', 'weak_chosen', 'weak_rejected') then cases.fate
        when paired.rank is null then if(cases.fate = 'weak_rejected', 'no_chosen', 'no_rejected')
        when longest > $max_tokens then 'over_long'
    end as reason,
    case
        when reason is null then null
        when reason = 'over_long' then format('above {} tokens, rank {}', $max_tokens, paired.rank)
        when cases.fate = 'low_confidence' then format('{} of {} samples agree, below {}', cases.n_agree, cases.n, $threshold)
        when cases.fate = 'below_reject_threshold'
            then format('{} of {} samples contradict the weak one, below reject_threshold {}', cases.n_agree, cases.n, $reject_threshold)
        when reason = 'no_answer' then if(cases.n is null, 'the prompt has no vote', 'most samples state no answer')
        when reason = 'empty' then 'the weak sample has no text'
        when reason = 'no_rejected' then 'all samples state the answer of the majority'
        else ''
    end as detail
from cases
left join paired using (prompt_id)
