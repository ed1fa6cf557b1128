-- One row: how many rows of a run are exported ($test: also those of test problems), and what these have in common.
select
    count(*) as found,
    count(*) filter (where is_test is null) as unknown,
    count(*) filter (where kept) as rows,
    count(*) filter (where kept and rendering = 'chat') as chats,
    count(*) filter (where kept and prefill <> '') as prefilled,
    count(*) filter (where kept and not ends) as unended
from (select *, $test or not coalesce(is_test, false) as kept from ({source}))
