"""Training by several processes: what one process would have written, up to the order of sums."""

import pytest

from tests import ranks_world as ranks
from tests import training_world as world

pytestmark = pytest.mark.slow


def test_try(workspace):
    world.build(workspace, changes={"preference.dpo.validation": world.BY_GENERATION})
    world.run(workspace, "reference.sums", "preference.dpo")
    alone = world.rows(workspace, "training", "dpo"), world.weights(workspace, "dpo")
    for n in (2, 4):
        ranks.together(n, ranks.stage, "reference.sums")
        ranks.together(n, ranks.stage, "preference.dpo")
        rows = world.rows(workspace, "training", "dpo")
        for a, b in zip(rows, alone[0]):
            print({k: (v, b[k]) for k, v in a.items() if v != b[k]})
        print({k: float((v - world.weights(workspace, "dpo")[k]).abs().max()) for k, v in alone[1].items()})
        print([ranks.said(i) for i in range(n)])
