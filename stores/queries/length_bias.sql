-- One row per pairs run: how much longer chosen spans are than rejected ones, in characters and, of spans that are whole
-- samples with counted tokens, in tokens. `z` is that of a sign test: beyond ±2 one side is longer more often than chance.
-- $run = null: only this run of pairs
with spans as (
  select
    run, chosen_sample_id, rejected_sample_id, chosen_start, rejected_start, chosen_end, rejected_end,
    chosen_end - chosen_start as chosen_chars,
    rejected_end - rejected_start as rejected_chars
  from pairs
  where $run is null or run = $run
),
counts as not materialized (
  select e.run, s.sample_id, any_value(s.n_chars) as n_chars, any_value(s.n_tokens) as n_tokens
  from run_sources e
  join samples s on s.run = e.input_run
  where e."table" = 'pairs' and e.input_table = 'samples' and s.n_tokens is not null and ($run is null or e.run = $run)
  group by all
),
measured as (
  select
    spans.*,
    case when chosen_start = 0 and chosen_end = c.n_chars then c.n_tokens end as chosen_tokens,
    case when rejected_start = 0 and rejected_end = r.n_chars then r.n_tokens end as rejected_tokens
  from spans
  left join counts c on c.run = spans.run and c.sample_id = spans.chosen_sample_id
  left join counts r on r.run = spans.run and r.sample_id = spans.rejected_sample_id
),
summed as (
  select
    run,
    count(*) as n,
    avg(chosen_chars) as chosen_chars,
    avg(rejected_chars) as rejected_chars,
    median(chosen_chars - rejected_chars) as median_chars_longer,
    count(*) filter (where chosen_chars > rejected_chars) as longer,
    count(*) filter (where chosen_chars < rejected_chars) as shorter,
    count(chosen_tokens + rejected_tokens) as n_with_tokens,
    avg(chosen_tokens) filter (where rejected_tokens is not null) as chosen_tokens,
    avg(rejected_tokens) filter (where chosen_tokens is not null) as rejected_tokens,
    count(*) filter (where chosen_tokens > rejected_tokens) as longer_in_tokens
  from measured
  group by run
)
select
  run, n,
  round(chosen_chars, 3) as chosen_chars,
  round(rejected_chars, 3) as rejected_chars,
  median_chars_longer,
  round(longer / n, 6) as share_chosen_longer,
  round(shorter / n, 6) as share_chosen_shorter,
  round((longer - shorter) / sqrt(nullif(longer + shorter, 0)), 3) as z,
  n_with_tokens,
  round(chosen_tokens, 3) as chosen_tokens,
  round(rejected_tokens, 3) as rejected_tokens,
  round(longer_in_tokens / nullif(n_with_tokens, 0), 6) as share_chosen_longer_in_tokens
from summed
order by run
