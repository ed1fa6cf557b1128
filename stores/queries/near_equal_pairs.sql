-- One row per pair whose chosen and rejected texts are nearly equal: similarity is 1 - edit distance / longer length, both
-- in bytes of UTF-8. The edit distance takes time as the product of the lengths, so it is computed only where the lengths
-- and the words (an edit changes at most three of them) allow the similarity; of texts above $max_chars only both ends are
-- compared.
-- $run = null: only this run of pairs
-- $threshold = 0.9: least similarity, from 0 to 1
-- $max_chars = 2000: longer texts are compared by their first and last $max_chars / 2 code points
-- $limit = 1000: most rows
with alike_in_length as (
  select
    run, pair_id, prompt_id, rank, chosen, rejected,
    greatest(strlen(chosen), strlen(rejected)) as longest,
    greatest(length(chosen), length(rejected)) <= $max_chars as is_whole,
    string_split(chosen, ' ').list_distinct() as chosen_words,
    string_split(rejected, ' ').list_distinct() as rejected_words
  from pair_texts
  where ($run is null or run = $run)
    and abs(strlen(chosen) - strlen(rejected)) <= (1 - $threshold) * greatest(strlen(chosen), strlen(rejected))
    and greatest(strlen(chosen), strlen(rejected)) > 0
),
parts as (
  select
    * exclude (chosen_words, rejected_words),
    len(chosen_words) + len(rejected_words) - 2 * len(list_intersect(chosen_words, rejected_words)) as words_apart,
    if(is_whole, [chosen], [left(chosen, $max_chars // 2), right(chosen, $max_chars // 2)]) as chosen_parts,
    if(is_whole, [rejected], [left(rejected, $max_chars // 2), right(rejected, $max_chars // 2)]) as rejected_parts
  from alike_in_length
),
measured as (
  select
    *,
    greatest(strlen(array_to_string(chosen_parts, '')), strlen(array_to_string(rejected_parts, ''))) as n_compared,
    case
      when words_apart > 3 * (1 - $threshold) * longest then null
      else levenshtein(chosen_parts[1], rejected_parts[1])
        + coalesce(levenshtein(chosen_parts[2], rejected_parts[2]), 0)
    end as edits
  from parts
)
select
  run, pair_id, prompt_id, rank,
  round(1 - edits / n_compared, 6) as similarity,
  edits,
  if(is_whole, 'whole', 'ends') as compared,
  length(chosen) as chosen_chars,
  length(rejected) as rejected_chars,
  chosen,
  rejected
from measured
where edits <= (1 - $threshold) * n_compared
order by similarity desc, run, prompt_id, rank
limit $limit
