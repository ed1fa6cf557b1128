-- One row per batch of `source`: its number there, and here.
select theirs.batch, min(ours.batch)
from source.batches as theirs
join main.batches as ours using (context, model, finished_at, wall_s, device_s, n, n_tokens)
group by theirs.batch
