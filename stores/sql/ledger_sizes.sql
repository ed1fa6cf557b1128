-- One row per context of the chosen batches: what the ledger holds of it.
with
entries as (
  select
    batch, count(*) as entries, sum(n_tokens) as tokens, count(redacted_at) as redacted, sum(price_usd) as price_usd,
    sum(length(text) + coalesce(length(token_ids), 0) + coalesce(length(logprobs), 0) + 2 * length(key) + 40) as bytes
  from completions
  where batch in (select batch from temp.chosen)
  group by batch
)
select
  batches.model, model_fingerprint, context, sum(entries.entries) as entries, sum(tokens) as tokens,
  sum(bytes) as bytes, sum(redacted) as redacted, round(sum(price_usd), 4) as price_usd,
  strftime('%Y-%m-%d', min(finished_at), 'unixepoch') as first, strftime('%Y-%m-%d', max(finished_at), 'unixepoch') as last,
  setting
from entries
join batches using (batch)
left join contexts using (context)
group by context, batches.model
order by bytes desc, context
