-- One row per pair whose chosen and rejected texts are nearly equal: similarity is 1 - edit distance / longer length. The
-- edit distance takes time as the product of the lengths, so it is computed only where the lengths and the words (an edit
-- changes at most three of them) allow the similarity; of texts above $max_chars only both ends are compared.
-- $run = null: only this run of pairs
-- $threshold = 0.9: least similarity, from 0 to 1
-- $max_chars = 2000: longer texts are compared by their first and last $max_chars / 2 code points
-- $limit = 1000: most rows
with alike_in_length as (
  select
    run, pair_id, prompt_id, rank, chosen, rejected,
    greatest(length(chosen), length(rejected)) as longest,
    string_split(chosen, ' ').list_distinct() as chosen_words,
    string_split(rejected, ' ').list_distinct() as rejected_words
  from pair_texts
  where ($run is null or run = $run)
    and abs((chosen_end - chosen_start) - (rejected_end - rejected_start))
      <= (1 - $threshold) * greatest(chosen_end - chosen_start, rejected_end - rejected_start)
    and greatest(chosen_end - chosen_start, rejected_end - rejected_start) > 0
),
counted as (
  select
    *,
    least(longest, $max_chars) as compared,
    len(chosen_words) + len(rejected_words) - 2 * len(list_intersect(chosen_words, rejected_words)) as words_apart
  from alike_in_length
),
measured as (
  select
    * exclude (chosen_words, rejected_words),
    case
      when words_apart > 3 * (1 - $threshold) * longest then null
      when longest <= $max_chars then levenshtein(chosen, rejected)
      else levenshtein(left(chosen, $max_chars // 2), left(rejected, $max_chars // 2))
        + levenshtein(right(chosen, $max_chars // 2), right(rejected, $max_chars // 2))
    end as edits
  from counted
)
select
  run, pair_id, prompt_id, rank,
  round(1 - edits / compared, 6) as similarity,
  edits,
  if(longest <= $max_chars, 'whole', 'ends') as compared,
  length(chosen) as chosen_chars,
  length(rejected) as rejected_chars,
  chosen,
  rejected
from measured
where edits <= (1 - $threshold) * measured.compared
order by similarity desc, run, prompt_id, rank
limit $limit
