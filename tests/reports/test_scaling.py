"""A scaling study of made-up points: curves, comparison at equal compute, words, table and picture."""

import importlib.util
import json
from pathlib import Path

import pytest

from genrec.artifacts import write_json
from genrec.reports.scaling import dense_loss_at, draw_scaling, gather_studies, reading, scaling_text

SCRIPT = Path(__file__).parents[2] / "scripts" / "scaling.py"


def point(size: str, flops: float, loss: float, seed: int = 1, data: str = "x") -> dict:
    kind = size.partition("-")[0]
    return {
        "data": data, "size": size, "kind": kind, "seed": seed, "flops": flops, "loss": loss,
        "parameters": 20, "active_parameters": 10, "recall@10": 0.1,
    }  # fmt: skip


DENSE = [point(f"dense-{n}", 10.0**n, 2 + 100 * 10.0 ** (-0.25 * n)) for n in (9, 10, 11, 12)]
EXPERTS = [point("experts-1", 10**9.5, 2.2), point("experts-2", 10**10.5, 2.4), point("experts-3", 1e13, 2.0)]


def test_the_curve_of_the_dense_sizes_is_found_and_three_sizes_are_too_few():
    (study,) = gather_studies([*EXPERTS, *DENSE])
    assert (study.curves["dense"].a, study.curves["dense"].c) == pytest.approx((2.0, 0.25), rel=1e-3)
    assert study.curves["experts"] == "3 sizes are too few to fit a curve with three unknowns"
    assert [size.name for size in study.sizes][:2] == ["dense-9", "experts-1"]


def test_dense_losses_between_sizes_lie_on_the_line_in_log_compute():
    (study,) = gather_studies(DENSE)
    middle = (DENSE[0]["loss"] + DENSE[1]["loss"]) / 2
    assert dense_loss_at(study, 10**9.5) == pytest.approx(middle)
    assert dense_loss_at(study, 1e8) is None
    assert dense_loss_at(study, 2e12) is None


def test_the_reading_says_where_experts_win_and_what_it_is_worth():
    (study,) = gather_studies([*DENSE, *EXPERTS])
    said = "\n".join(reading(study))
    assert "Experts win at 1 of 2 sizes that lie between two dense ones (experts-1); with one seed, how much" in said
    dense = dense_loss_at(study, 10**9.5)
    assert f"experts-1 has a loss of 2.200, dense models {dense:.3f} ({2.2 - dense:+.3f})" in said
    # 2.2 lies between 10^10 and 10^11: a line in log C.
    low, high = DENSE[1]["loss"], DENSE[2]["loss"]
    needed = 10 ** (10 + (low - 2.2) / (low - high) - 9.5)
    assert f"need {needed:.2f} times the FLOPs" in said
    assert "experts-3" not in said


def test_seeds_are_averaged_and_nothing_between_is_said_so():
    points = [point("dense-1", 1e9, 3.0, 1), point("dense-1", 1e9, 4.0, 2), point("dense-2", 1e10, 2.0)]
    (study,) = gather_studies(points)
    assert study.sizes[0].mean_loss == 3.5
    assert reading(study)[-1].startswith("No size with experts lies between two dense ones")
    assert "| dense-1 | 1.00e+09 | 10 | 20 | 3.500 ± 0.707 | 0.1000 ± 0.0000 |  | 2 |" in scaling_text([study])


def test_the_picture_is_a_png_with_a_row_per_data_set(tmp_path):
    studies = gather_studies([*DENSE, *EXPERTS, point("dense-1", 1e9, 3.0, data="y")])
    draw_scaling(studies, tmp_path / "s.png")
    picture = (tmp_path / "s.png").read_bytes()
    width, height = (int.from_bytes(picture[place : place + 4], "big") for place in (16, 20))
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    # Two rows of 4.2 inches, 11 inches wide.
    assert height / width == pytest.approx(2 * 4.2 / 11, rel=0.01)


def test_the_script_writes_the_study_of_all_points_in_its_folder(tmp_path):
    spec = importlib.util.spec_from_file_location("scaling_study", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for made in DENSE + EXPERTS[:1]:
        values = {key: value for key, value in made.items() if key not in ("data", "size", "kind", "seed")}
        write_json(tmp_path / "beauty" / made["size"] / "seed-7" / "point.json", values)
    script.write_study(tmp_path)
    written = json.loads((tmp_path / "scaling.json").read_text())
    assert {(one["data"], one["seed"]) for one in written["points"]} == {("beauty", 7)}
    assert {one["kind"] for one in written["points"]} == {"dense", "experts"}
    assert written["studies"][0]["curves"]["dense"]["c"] == pytest.approx(0.25, rel=1e-3)
    assert "## beauty" in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    small, large = script.Size(64, 0, 1), script.Size(64, 8, 2)
    arguments = script.argparse.Namespace(family="decoder", layers=2)
    assert (small.name, large.name) == ("dense-64", "experts-64-2of8")
    assert small.settings(arguments)["feed_forward_size"] == 2 * large.settings(arguments)["feed_forward_size"]
