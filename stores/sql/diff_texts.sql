-- One row per row of `unchanged` (ids and spans are the same in both versions) whose spans read otherwise, and which do.
-- `retold`: samples with another text under the same id, whose texts `a.texts` and `b.texts` hold.
with spans as (
  {spans}
),
reads_otherwise as (
  select spans.n, string_agg(spans.side || ' text', '; ' order by spans.side) as what
  from spans
  join a.texts as old using (sample_id)
  join b.texts as new using (sample_id)
  where old.text[spans."start" + 1 : spans."end"] is distinct from new.text[spans."start" + 1 : spans."end"]
  group by spans.n
)
select n, 'changed' as change, what, problem_id, prompt_id, sample_id, rejected_sample_id, place, rank
from unchanged
join reads_otherwise using (n)
