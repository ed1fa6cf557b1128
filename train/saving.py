"""Models on the disk: what a full one looks like, settings that can be saved."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from transformers import GenerationConfig

LAST_IS_INTACT = "free space or point PAIRWRIGHT_LEDGER elsewhere (the last checkpoint is intact)"
RUN_AGAIN = "free space and run it again (it continues from its checkpoint)"


@contextlib.contextmanager
def disk_errors(place: Path, remedy: str) -> Iterator[None]:
    """Turns what safetensors raises where the disk is full into an OSError of one line."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{place}: {' '.join(str(error).split())}; {remedy}") from None


def storable(config: GenerationConfig) -> GenerationConfig:
    """A model's generation configuration as transformers agrees to save it, which is stricter than loading.

    Many models give a temperature or a nucleus without `do_sample`, which they mean; of other contradictions only the
    token ids are kept. No engine here reads more of it than those.
    """
    sampled = copy.deepcopy(config)
    sampled.do_sample = True
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return next(c for c in (config, sampled, GenerationConfig(**ids)) if _is_valid(c))


def _is_valid(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
