-- One row per key in a range that both ledgers have, with different texts.
select theirs.key
from theirs
join main.completions as ours on ours.key = theirs.key
where
  theirs.key > :low
  and theirs.key <= :high
  and theirs.text is not ours.text
  and ours.redacted_at is null
  and theirs.redacted_at is null
