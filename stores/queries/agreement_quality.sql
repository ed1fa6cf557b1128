-- One row per (consistency run, side): what agreement keeps. With gold rewards of the side's samples (never those of
-- rewards_votes): the share that was right before, that of what is kept (precision), and the share of the right ones that
-- is kept (recall). Samples that gold could not decide are left out of all three.
-- $run = null: only this run of agreements
with gold as (
  select sample_id, arg_min(verdict, run) = 'correct' as is_right
  from rewards
  where verdict <> 'undecided'
    and run in (select run from params where section in ('rewards', 'evaluate'))
  group by sample_id
),
sides as (
  select run, 'a' as side, a_sample_id as sample_id, agrees, kept from agreements
  union all
  select run, 'b', b_sample_id, agrees, kept from agreements
)
select
  run, side,
  count(*) as n,
  count(*) filter (where agrees) as n_agreeing,
  count(*) filter (where kept) as n_kept,
  count(is_right) as n_judged,
  round(avg(is_right::integer), 6) as share_right_before,
  round(avg(is_right::integer) filter (where kept), 6) as "precision",
  round(count(*) filter (where kept and is_right) / nullif(count(*) filter (where is_right), 0), 6) as recall
from sides
left join gold using (sample_id)
where $run is null or run = $run
group by run, side
order by run, side
