-- One row per batch of the ledger that a selection takes; a filter that is null takes all.
select batch, finished_at
from batches
left join contexts using (context)
where
  (:models is null or batches.model in (select value from json_each(:models)))
  and (:fingerprints is null or model_fingerprint in (select value from json_each(:fingerprints)))
  and (:before is null or finished_at < :before)
  and (:since is null or finished_at >= :since)
  and (
    :contexts is null
    or exists (
      select 1 from json_each(:contexts) as start where substr(batches.context, 1, length(start.value)) = start.value
    )
  )
