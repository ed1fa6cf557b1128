"""Programs of the libraries that pairs are compared with, each written as its own users would.

`python <program> samples.parquet pairs.parquet <column> <K>`: pair k of a prompt is its (k mod winners)-th correct and
its (k mod losers)-th wrong sample, for k < K; `column` is what a pair holds of both, `text` or `sample_id`. The input
has `sample_id`, `prompt_id`, `correct` (true, false, null: undecided), and for texts `text`, sorted by `sample_id`; the
output `prompt_id`, `rank`, `chosen`, `rejected`. They import nothing of ours: they run in another environment.
"""
