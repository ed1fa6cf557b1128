-- One row per (samples run, start of the ledger's context): the settings that a run's completions were generated with.
with settings as (
    select distinct run, split_part(sample_id, '-', 3) as context from samples where "index" = 0
)
select * from settings order by run, context
