"""What is fit for work here, and what is not, each with a remedy: packages, devices, engines, servers, params.

`builders.doctor_storage` looks at disks, Git, DVC and the ledger, `builders.doctor_remotes` at where versions go. Keys
and URLs are never shown.
"""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from builders.engines.servers import Server, servers
from schemas.params import Params, load_params

State = Literal["ok", "warning", "problem"]
_EXACT = ("pyarrow",)
"""Packages whose version decides the bytes of tables."""
_EXTRAS = {
    "vllm": "the engine of GPUs; `pip install -c constraints.txt -e '.[vllm]'`",
    "ray": "generation on several machines; `pip install -c constraints.txt -e '.[ray]'`",
}
_HUB = "https://huggingface.co"
_TIMEOUT_S = 10


class Finding(NamedTuple):
    """One thing that was looked at. `remedy` is empty where nothing is to be done."""

    check: str
    state: State
    detail: str
    remedy: str = ""


def examine(root: Path = Path(), network: bool = False, deep: bool = False) -> Iterator[Finding]:
    """Everything, one finding after the other.

    `network` also asks the servers, the Hub and DVC's remote; `deep` reads the whole of a ledger that is larger than a
    gigabyte.
    """
    from builders.doctor_storage import examine_storage

    params, finding = _params(root)
    yield from examine_packages(root / "constraints.txt")
    yield from _devices()
    yield from _engines(params)
    yield from _keys(params, network)
    yield finding
    yield from examine_storage(root, deep, network)


def _params(root: Path) -> tuple[Params | None, Finding]:
    try:
        params = load_params(root / "params.yaml")
    except ValueError as error:
        return None, Finding("params.yaml", "problem", str(error), "mend what is named")
    return params, Finding("params.yaml", "ok", "valid")


def examine_packages(constraints: Path) -> Iterator[Finding]:
    """Python, what the project needs, and how far that is from the versions that the tests run with."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    pinned = _pinned(constraints)
    wrong, differing = _compare(pinned)
    install = "`pip install -c constraints.txt -e .`"
    if wrong:
        yield Finding("packages", "problem", "; ".join(wrong), install)
    elif not pinned:
        remedy = "run in the project's directory"
        yield Finding("packages", "warning", f"as needed, but there is no {constraints} to compare with", remedy)
    elif differing:
        yield Finding("packages", "warning", f"not as tested: {', '.join(differing)}", install)
    else:
        yield Finding("packages", "ok", "as tested")


def _pinned(constraints: Path) -> dict[str, str]:
    """Package -> version."""
    if not constraints.exists():
        return {}
    lines = (line.split("#")[0].strip() for line in constraints.read_text(encoding="utf-8").splitlines())
    return {name.lower().replace("_", "-"): pin for name, mark, pin in (line.partition("==") for line in lines) if mark}


def _compare(pinned: dict[str, str]) -> tuple[list[str], list[str]]:
    """Packages that are missing or too old or too new; and those that only differ from what is pinned."""
    from packaging.requirements import Requirement

    wrong, differing = [], []
    for requirement in map(Requirement, requires("pairwright") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have, name = _version(requirement.name), requirement.name.lower().replace("_", "-")
        if have is None:
            wrong.append(f"{name} is missing")
        elif not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{name} {have} (needed: {requirement.specifier})")
        elif have.split("+")[0] != pinned.get(name, have).split("+")[0]:
            (wrong if name in _EXACT else differing).append(f"{name} {have} (tested: {pinned[name]})")
    return wrong, differing


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    """Where models run."""
    import torch

    from builders.model_files import device

    chosen = device()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"torch {torch.__version__}, {cores} cores, {_memory()}"
    if chosen.startswith("cuda") and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
            bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
            name = torch.cuda.get_device_name(index)
            yield Finding("device", "ok", f"cuda:{index} {name}, {free:.0f} of {total:.0f} GiB free, {bf16} bf16")
    elif chosen.startswith("cuda") or (chosen == "mps" and not torch.backends.mps.is_available()):
        remedy = "install a build of torch for this device, or unset PAIRWRIGHT_DEVICE"
        yield Finding("device", "problem", f"{chosen} is asked for, and torch sees none; {detail}", remedy)
    elif torch.backends.mps.is_available() and chosen == "cpu":
        yield Finding("device", "ok", f"cpu; {detail}; PAIRWRIGHT_DEVICE=mps would use this Mac's GPU")
    else:
        yield Finding("device", "ok", f"{chosen}; {detail}")


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in os.sysconf_names else 0
    return f"{pages / 2**30:.0f} GiB of memory"


def _engines(params: Params | None) -> Iterator[Finding]:
    """Optional packages: only those that params ask for must be there."""
    asked = {run.engine for run in (*params.samples.values(), *params.evaluate.values())} if params else set()
    for package, purpose in _EXTRAS.items():
        if find_spec(package):
            yield Finding(package, "ok", _version(package) or "installed")
        elif package in asked:
            yield Finding(package, "problem", f"not installed, but params have runs with `engine: {package}`", purpose)
        else:
            yield Finding(package, "ok", f"not installed, and not asked for ({purpose})")


def _keys(params: Params | None, network: bool) -> Iterator[Finding]:
    """Keys are there or not; servers answer or not."""
    names = ("OPENAI_API_KEY", "PAIRWRIGHT_API_KEYS", "HF_TOKEN")
    yield Finding("keys", "ok", ", ".join(f"{name}: {'yes' if os.environ.get(name) else 'no'}" for name in names))
    hosted = params is not None and any(
        run.engine == "openai" for run in (*params.samples.values(), *params.evaluate.values())
    )
    configured = any(os.environ.get(name) for name in ("PAIRWRIGHT_BASE_URLS", "OPENAI_BASE_URL", "OPENAI_API_KEY"))
    if hosted or configured:
        try:
            found = servers()
        except ValueError as error:
            yield Finding("servers", "problem" if hosted else "warning", str(error), "set the variable that is named")
            found = ()
        for server in found:
            yield reach(server) if network else Finding("servers", "ok", f"{server.place}: not asked (--network asks)")
    if network:
        yield _reach_hub()


def reach(server: Server) -> Finding:
    """Whether a server lists its models."""
    import httpx2

    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    try:
        status = httpx2.get(f"{server.url}/models", headers=headers, timeout=_TIMEOUT_S).status_code
    except httpx2.HTTPError as error:
        reason = f"{server.place} does not answer ({type(error).__name__})"
        return Finding("servers", "problem", reason, "start it, or mend PAIRWRIGHT_BASE_URLS")
    if status in (401, 403):
        return Finding("servers", "problem", f"{server.place} refuses the key ({status})", "set its API key")
    state: State = "ok" if status < 400 else "warning"
    return Finding("servers", state, f"{server.place} answers ({status})")


def _reach_hub() -> Finding:
    import httpx2

    try:
        status = httpx2.head(os.environ.get("HF_ENDPOINT") or _HUB, timeout=_TIMEOUT_S).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        remedy = "models and problems must be local files or in the Hub's cache; or set HF_ENDPOINT"
        return Finding("hub", "warning", f"the Hub does not answer ({type(error).__name__})", remedy)
    return Finding("hub", "ok", f"the Hub answers ({status})")
