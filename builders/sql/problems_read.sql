-- One row per row of a batch, without its texts: two solutions of a problem are told apart by their hashes.
select
    place, problem_id, located, order_key, note, reason, blank, answer,
    case when solution is not null then hash(solution) end as natural_hash,
    case when program is not null then hash(program) end as program_hash
from batch
