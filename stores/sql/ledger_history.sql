-- One row: what the completions of some contexts were like, or nulls where there are none. Speed is of whole batches;
-- sizes are of the first thousand completions of each context.
with
spent as (
  select
    sum(n) as n, sum(n_tokens) as tokens, sum(case when device_s > 0 then device_s else wall_s end) as device_s
  from batches
  where context in (select value from json_each(:contexts))
),
samples as (
  select n_prompt_tokens, price_usd,
    length(text) + coalesce(length(token_ids), 0) + coalesce(length(logprobs), 0) + 2 * length(c.key) + 40 as bytes
  from json_each(:contexts) as asked
  cross join completions as c on c.id in (
    select id
    from completions as first
    where first.key >= asked.value || '-' and first.key < asked.value || '.' and redacted_at is null
    order by first.key
    limit 1000
  )
)
select
  (select n from spent) as n,
  (select tokens from spent) as tokens,
  (select device_s from spent) as device_s,
  avg(n_prompt_tokens) as prompt_tokens,
  avg(bytes) as bytes,
  avg(price_usd) as price_usd
from samples
