-- One row per (run, start of the ledger's context): the settings that a run's completions or judgements were made with.
-- Runs of step_labels are named with their table: one of samples may have the same name.
with sampled as (
    select distinct run, split_part(sample_id, '-', 3) as context from samples where "index" = 0
),
judged as (
    select distinct 'step_labels.' || run as run, left(ledger_key, 8) as context
    from step_labels
    where ledger_key is not null
)
select * from sampled union all select * from judged order by run, context
