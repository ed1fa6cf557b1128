-- One row per batch of `source` that this ledger lacks. A batch is the same if context, time and numbers are.
select context, model, finished_at, wall_s, device_s, n, n_tokens
from source.batches
except
select context, model, finished_at, wall_s, device_s, n, n_tokens
from main.batches
order by finished_at
