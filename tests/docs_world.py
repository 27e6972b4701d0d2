"""The small world in which the commands of the documentation are run as they are written."""

import os
import re
import subprocess
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from documents import ROOT, blocks_of

from genrec.data import public
from genrec.data.sources import Mirror, PublicSource, RemoteTable

GUIDES = ("README.md", "docs/quickstart.md", "docs/your-own-data.md")
CUTS: Mapping[str, Mapping[str, Any]] = {
    "training": {"epochs": 1, "eval_users": 20},
    "evaluation": {"bootstrap_samples": 20},
}
NOUNS = ("lantern", "harbor", "orchard", "comet", "violin", "falcon", "mirror", "bridge", "kettle", "compass")
KINDS = ("Red", "Blue", "Green", "Golden", "Silver", "Wooden", "Little", "Great", "Silent", "Winter")
NAMES = [f"{kind} {noun}" for kind in KINDS for noun in NOUNS]
FILMS = [str(number) for number in (1, 50, 172, 181, 588, *range(600, 745))]
FIRST_DAY = 1_714_564_800
YOUR_PAGE = ROOT / "docs" / "your-own-data.md"


def cut_recipes(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """``configs/``: the recipes of the repository, with CUTS."""
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, cuts in CUTS.items():
            values.setdefault(section, {}).update(cuts)
        (folder / "configs" / path.name).write_text(yaml.safe_dump(values), encoding="utf-8")


def write_tables(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """``log.csv`` and ``items.csv``: what the page shows, then 70 users and 100 items; two items are sold out."""
    log, items = (block.text for block in blocks_of(YOUR_PAGE, "csv"))
    rows = [f"sku-9{n:03d},{name},{('kitchen', 'outdoor', 'garden')[n % 3]}" for n, name in enumerate(NAMES)]
    ids = [row.split(",")[0] for row in (*items.splitlines()[1:], *rows)]
    users = ["anna", "ben", *(f"user-{number}" for number in range(68))]
    events = (f"{user},{item},{second}" for user, item, second in walks(users, ids, FIRST_DAY + 10**6))
    (folder / "log.csv").write_text(log + "\n".join(events) + "\n", encoding="utf-8")
    (folder / "items.csv").write_text(items + "\n".join(rows) + "\n", encoding="utf-8")
    (folder / "sold-out.txt").write_text("\n".join(ids[:2]) + "\n", encoding="utf-8")


def walks(users: list[str], items: list[str], start: int) -> list[tuple[str, str, int]]:
    """25 events of each user, who goes through the items from a place of the user's own, now and then elsewhere."""
    random, events = np.random.default_rng(5), []
    for user in users:
        place = int(random.integers(len(items)))
        for step in range(25):
            jumped = random.random() < 0.3
            item = int(random.integers(len(items))) if jumped else (place + step) % len(items)
            events.append((user, items[item], start + 3600 * step))
    return events


def publish_films(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """MovieLens-100K: 80 users and 150 films in the files of the real archive, from a mirror, with its own hash."""
    path = folder / "mirror" / "ml-100k.zip"
    path.parent.mkdir()
    users = [str(number) for number in range(1, 81)]
    titles = [f"{item}|{NAMES[n % 100]} ({1950 + n // 3})|01-Jan-1995||" for n, item in enumerate(FILMS)]
    files = {
        "data": [f"{u}\t{i}\t{1 + s % 5}\t{s}" for u, i, s in walks(users, FILMS, 880_000_000)],
        "item": [f"{title}|{'|'.join(str(int(g == n % 19)) for g in range(19))}" for n, title in enumerate(titles)],
        "user": [f"{user}|{20 + int(user)}|F|writer|12345" for user in users],
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, lines in files.items():
            archive.writestr(f"ml-100k/u.{member}", "\n".join(lines) + "\n")
    digest = sha256(path.read_bytes()).hexdigest()
    mirror = Mirror(*(RemoteTable(f"https://localhost/{path.name}", f"ml-100k/u.{end}", digest) for end in files))
    sources = {"ml-100k": PublicSource("ml-100k", "Terms of use.\n", (mirror,))}
    patch.setenv("GENREC_MIRROR", str(path.parent))
    patch.setattr(public, "find_source", sources.__getitem__)


def planned_by_make(target: str) -> list[str]:
    """The commands of genrec that ``make TARGET`` would run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    return [match[1] for match in re.finditer(r"^\S*/(genrec .*)$", done.stdout, re.M)]
