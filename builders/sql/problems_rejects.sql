-- One row per row of the window that is no problem.
select
    placed.problem_id, null::varchar as prompt_id, null::varchar as sample_id, outcome as reason,
    case
        when outcome = 'duplicate' then this.located || ' repeats ' || first.located
        when this.note <> '' then this.located || ': ' || this.note
        else this.located
    end as detail
from placed
join rows_read as this using (place)
left join rows_read as first on first.place = first_place
where outcome <> 'problem'
