"""A matrix of the user's own: formats, order of rows, and everything that can be wrong with it."""

import json
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from genrec.config import DataConfig, FeaturesConfig
from genrec.data import make_dataset
from genrec.errors import ArtifactError, DataError
from genrec.features import build_features
from genrec.features.matrix import MatrixEncoder, MatrixSettings

WIDTH = 6


@pytest.fixture
def values(tiny_dataset) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((tiny_dataset.num_items, WIDTH)).astype(np.float32)


@pytest.fixture
def write(tiny_dataset, tmp_path):
    """A function that writes a matrix, rows in reverse order, and gives the file's path."""

    def write_matrix(values: np.ndarray, form: str = "list") -> str:
        ids = tiny_dataset.item_ids[::-1]
        if form == "safetensors":
            save_file({"vectors": np.ascontiguousarray(values[::-1])}, str(tmp_path / "m.safetensors"))
            (tmp_path / "item_ids.json").write_text(json.dumps(ids))
            return str(tmp_path / "m.safetensors")
        if form == "npy":
            np.save(tmp_path / "m.npy", values[::-1])
            (tmp_path / "item_ids.json").write_text(json.dumps(ids))
            return str(tmp_path / "m.npy")
        rows = values[::-1]
        columns = {"list": {"v": rows.tolist()}, "columns": {f"c{n}": rows[:, n] for n in range(rows.shape[1])}}
        columns["array"] = {"v": pl.Series(rows.tolist(), dtype=pl.Array(pl.Float32, rows.shape[1]))}
        pl.DataFrame({"item_id": ids, **columns[form]}).write_parquet(tmp_path / "m.parquet")
        return str(tmp_path / "m.parquet")

    return write_matrix


def fit(path: str, dataset, **settings) -> np.ndarray:
    return MatrixEncoder(MatrixSettings(path=path, **settings)).fit(dataset).values


@pytest.mark.parametrize("form", ["list", "array", "columns", "safetensors", "npy"])
def test_rows_are_found_by_item_id(tiny_dataset, values, write, form):
    np.testing.assert_array_equal(fit(write(values, form), tiny_dataset, width=WIDTH), values)


def test_a_features_folder_is_a_matrix_too(tiny_dataset, tmp_path):
    features = build_features(FeaturesConfig(encoder="lexical", dim=4), tiny_dataset, tmp_path / "features")
    np.testing.assert_array_equal(fit(str(tmp_path / "features"), tiny_dataset), features.values)


def test_nan_is_named(tiny_dataset, values, write):
    values[3, 1], values[9, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"(?s)a vector holds NaN or infinity: item 'i03'.*rows 3, 9 \(2 in all\)"):
        fit(write(values), tiny_dataset)


def test_an_empty_cell_is_nan(tiny_dataset, values, write):
    path = write(values, "columns")
    table = pl.read_parquet(path)
    last = pl.col("item_id") == "i39"
    table.with_columns(c2=pl.when(last).then(None).otherwise(pl.col("c2"))).write_parquet(path)
    with pytest.raises(DataError, match="a vector holds NaN or infinity: item 'i39'"):
        fit(path, tiny_dataset)


def test_wrong_width_is_named(tiny_dataset, values, write):
    with pytest.raises(DataError, match=r"(?s)the vectors have 6 columns.*expected: 384"):
        fit(write(values), tiny_dataset, width=384)


def test_ragged_lists_are_named(tiny_dataset, values, write, tmp_path):
    rows = values.tolist()
    rows[7] = rows[7][:2]
    pl.DataFrame({"item_id": tiny_dataset.item_ids, "v": rows}).write_parquet(tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"(?s)a vector has 2 numbers where the others have 6.*row 7"):
        fit(str(tmp_path / "m.parquet"), tiny_dataset)


def test_missing_items_are_named(tiny_dataset, values, write):
    path = write(values)
    pl.read_parquet(path).filter(~pl.col("item_id").is_in(["i05", "i11"])).write_parquet(path)
    with pytest.raises(DataError, match=r"(?s)item 'i05' has no vector.*rows 5, 11 \(2 in all\)"):
        fit(path, tiny_dataset)


def test_an_item_twice_is_named(tiny_dataset, values, write):
    path = write(values)
    table = pl.read_parquet(path)
    pl.concat([table, table[:1]]).write_parquet(path)
    with pytest.raises(DataError, match="item 'i39' occurs twice"):
        fit(path, tiny_dataset)


def test_constant_columns_are_refused_or_dropped(tiny_dataset, values, write):
    values[:, 2] = 0.5
    path = write(values)
    with pytest.raises(DataError, match=r"(?s)column 2 has the same value for every item \(1 such columns of 6\)"):
        fit(path, tiny_dataset)
    np.testing.assert_array_equal(fit(path, tiny_dataset, drop_constant_columns=True), np.delete(values, 2, axis=1))


def test_a_matrix_of_one_vector_is_refused(tiny_dataset, values, write):
    values[:] = values[0]
    with pytest.raises(DataError, match="every column has the same value for every item"):
        fit(write(values), tiny_dataset, drop_constant_columns=True)


def test_constant_rows_are_named(tiny_dataset, values, write):
    values[4] = 0
    with pytest.raises(DataError, match="a vector has the same number in every column: item 'i04'"):
        fit(write(values), tiny_dataset)


def test_further_items_come_from_the_same_file_and_columns(tiny_dataset, values, write, tmp_path):
    values[:, 0] = 1
    path = write(values)
    extra = pl.DataFrame({"item_id": ["new"], "v": [[1.0, 2, 3, 4, 5, 6]]}, schema=pl.read_parquet(path).schema)
    pl.concat([pl.read_parquet(path), extra]).write_parquet(path)
    encoder = MatrixEncoder(MatrixSettings(path=path, drop_constant_columns=True))
    encoder.fit(tiny_dataset)
    encoder.save(tmp_path / "encoder")
    loaded = MatrixEncoder.load(tmp_path / "encoder")
    np.testing.assert_array_equal(loaded.transform(pl.DataFrame({"item_id": ["new"]})), [[2, 3, 4, 5, 6]])


def test_a_missing_file_is_an_artifact_error(tiny_dataset):
    with pytest.raises(ArtifactError, match=r"there is no file .*nowhere\.parquet"):
        fit("/nowhere.parquet", tiny_dataset)


def test_another_format_is_refused(tiny_dataset, tmp_path):
    (tmp_path / "m.h5").write_bytes(b"x")
    with pytest.raises(DataError, match=r"m\.h5 is none of \.safetensors, \.npy and \.parquet"):
        fit(str(tmp_path / "m.h5"), tiny_dataset)


def test_broken_files_are_named(tiny_dataset, tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match="is not readable Parquet"):
        fit(str(tmp_path / "m.parquet"), tiny_dataset)
    (tmp_path / "m.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"m\.npy is not a readable array"):
        fit(str(tmp_path / "m.npy"), tiny_dataset)
    np.save(tmp_path / "m.npy", np.array([{"code": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"(?s)m\.npy is not a readable array.*without Python objects"):
        fit(str(tmp_path / "m.npy"), tiny_dataset)
    (tmp_path / "m.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="is not a readable safetensors file"):
        fit(str(tmp_path / "m.safetensors"), tiny_dataset)


def test_parquet_without_ids_or_numbers_is_refused(tiny_dataset, tmp_path):
    path = tmp_path / "m.parquet"
    pl.DataFrame({"id": ["a"], "x": [1.0]}).write_parquet(path)
    with pytest.raises(DataError, match=r"(?s)m\.parquet has the columns id, x.*expected: the column item_id"):
        fit(str(path), tiny_dataset)
    pl.DataFrame({"item_id": ["a"], "x": ["text"]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'x' is String"):
        fit(str(path), tiny_dataset)
    pl.DataFrame({"item_id": ["a"]}).write_parquet(path)
    with pytest.raises(DataError, match="there is no column of numbers"):
        fit(str(path), tiny_dataset)


@pytest.mark.parametrize("form", ["parquet", "npy", "shifted"])
def test_ids_of_a_matrix_are_those_of_the_data_set(form, tmp_path):
    frame = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": [5, 7, 7]})
    dataset = make_dataset(frame, None, DataConfig(k_core=0), tmp_path / "dataset")
    ids, rows = {"parquet": [7.0, 5.0], "npy": [7.0, 5], "shifted": [" 7", "5\u00a0"]}[form], [[0.0, 2.0], [1.0, 0.0]]
    if form == "npy":
        np.save(tmp_path / "m.npy", np.array(rows))
        (tmp_path / "item_ids.json").write_text(json.dumps(ids))
    else:
        pl.DataFrame({"item_id": ids, "v": rows}).write_parquet(tmp_path / "m.parquet")
    path = str(tmp_path / ("m.npy" if form == "npy" else "m.parquet"))
    np.testing.assert_array_equal(fit(path, dataset), [[1.0, 0.0], [0.0, 2.0]])


def test_several_tensors_need_a_name(tiny_dataset, values, tmp_path):
    save_file({"a": values, "b": values * 2}, str(tmp_path / "m.safetensors"))
    (tmp_path / "item_ids.json").write_text(json.dumps(tiny_dataset.item_ids))
    with pytest.raises(DataError, match="the file holds 2 tensors: a, b"):
        fit(str(tmp_path / "m.safetensors"), tiny_dataset)
    np.testing.assert_array_equal(fit(str(tmp_path / "m.safetensors"), tiny_dataset, tensor="b"), values * 2)
    with pytest.raises(ArtifactError, match="lacks 'c'"):
        fit(str(tmp_path / "m.safetensors"), tiny_dataset, tensor="c")


def test_ids_must_match_the_tensor(tiny_dataset, values, tmp_path):
    save_file({"a": values}, str(tmp_path / "m.safetensors"))
    (tmp_path / "names.json").write_text(json.dumps(tiny_dataset.item_ids[:-1]))
    with pytest.raises(DataError, match=r"the array is float32 of shape \(40, 6\), names\.json has 39 ids"):
        fit(str(tmp_path / "m.safetensors"), tiny_dataset, ids=str(tmp_path / "names.json"))


# Numbers that float16, bfloat16 and float8 hold exactly, so that whatever is read must equal them.
EXACT = np.array([[1.0, -0.5, 2.0], [0.25, 3.5, -1.0], [6.0, -2.0, 0.125]], dtype=np.float32)
TORCH_KINDS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]


def three_items(make_catalogue):
    return make_catalogue(pl.DataFrame({"item_id": ["1", "2", "3"], "title": ["a", "b", "c"]}))


def with_ids(folder, ids=("1", "2", "3")):
    (folder / "item_ids.json").write_text(json.dumps(list(ids)))


@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_safetensors_of_every_precision_are_exact(kind, make_catalogue, tmp_path):
    with_ids(tmp_path)
    save_torch({"v": torch.from_numpy(EXACT).to(getattr(torch, kind))}, str(tmp_path / "m.safetensors"))
    found = fit(str(tmp_path / "m.safetensors"), three_items(make_catalogue))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, EXACT)


@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", ">f4", "<f8", "g"])
def test_arrays_of_every_precision_are_exact(kind, make_catalogue, tmp_path):
    with_ids(tmp_path)
    np.save(tmp_path / "m.npy", np.asfortranarray(EXACT.astype(kind)))
    np.testing.assert_array_equal(fit(str(tmp_path / "m.npy"), three_items(make_catalogue)), EXACT)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(10, 3)])
@pytest.mark.parametrize("nested", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3), None])
def test_parquet_of_every_precision_is_exact(kind, nested, make_catalogue, tmp_path):
    convert = {pa.float16(): np.float16, pa.decimal128(10, 3): lambda value: Decimal(str(value))}.get(kind, float)
    rows = [[convert(value) for value in row] for row in EXACT.tolist()]
    if nested is None:
        columns = {f"c{column}": pa.array([row[column] for row in rows], kind) for column in range(3)}
    else:
        columns = {"v": pa.array(rows, nested(kind))}
    pq.write_table(pa.table({"item_id": ["1", "2", "3"], **columns}), tmp_path / "m.parquet")
    np.testing.assert_array_equal(fit(str(tmp_path / "m.parquet"), three_items(make_catalogue)), EXACT)


@pytest.mark.parametrize("kind", ["int8", "int64", "uint16"])
def test_whole_numbers_are_exact(kind, make_catalogue, tmp_path):
    with_ids(tmp_path)
    whole = np.array([[1, 2], [3, 100], [5, 6]], dtype=kind)
    np.save(tmp_path / "m.npy", whole)
    np.testing.assert_array_equal(fit(str(tmp_path / "m.npy"), three_items(make_catalogue)), whole)


WRONG = [
    (1e39, "a number of item '2' is too large for float32"),
    (1e20, "the square of a vector's length does not fit float32: item '2'"),
    (float("nan"), "a vector holds NaN or infinity: item '2'"),
    (float("-inf"), "a vector holds NaN or infinity: item '2'"),
]


@pytest.mark.parametrize(("number", "message"), WRONG)
@pytest.mark.filterwarnings("error")
def test_numbers_without_a_place_in_float32_are_named(number, message, make_catalogue, tmp_path):
    with_ids(tmp_path)
    values = EXACT.astype(np.float64)
    values[1, 2] = number
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(DataError, match=message):
        fit(str(tmp_path / "m.npy"), three_items(make_catalogue))


def test_vectors_too_short_to_have_a_length_are_named(make_catalogue, tmp_path):
    with_ids(tmp_path)
    np.save(tmp_path / "m.npy", EXACT * np.float32(1e-30))
    with pytest.raises(DataError, match=r"(?s)does not fit float32: item '1'.*lengths of 1e-19 to 6e18"):
        fit(str(tmp_path / "m.npy"), three_items(make_catalogue))


def test_lists_of_lists_and_kinds_of_numbers_that_nothing_reads_are_refused(make_catalogue, tmp_path):
    pl.DataFrame({"item_id": ["1", "2", "3"], "v": [[row] for row in EXACT.tolist()]}).write_parquet(
        tmp_path / "m.parquet"
    )
    with pytest.raises(DataError, match=r"(?s)column 'v' holds lists of List\(Float64\).*one list of numbers per item"):
        fit(str(tmp_path / "m.parquet"), three_items(make_catalogue))
    with_ids(tmp_path)
    save_torch({"v": torch.from_numpy(EXACT).to(torch.complex64)}, str(tmp_path / "m.safetensors"))
    with pytest.raises((ArtifactError, DataError), match=r"complex64|not a readable safetensors"):
        fit(str(tmp_path / "m.safetensors"), three_items(make_catalogue))


def test_rows_of_no_item_are_counted(make_catalogue, tmp_path, caplog):
    with_ids(tmp_path, ["9", "1", "2", "8", "3"])
    np.save(tmp_path / "m.npy", np.concatenate([EXACT[:1] * 9, EXACT[:2], EXACT[:1] * 8, EXACT[2:]]))
    features = MatrixEncoder(MatrixSettings(path=str(tmp_path / "m.npy"))).fit(three_items(make_catalogue))
    np.testing.assert_array_equal(features.values, EXACT)
    assert features.description["counts"] == {"rows_of_no_item": 2}
    assert caplog.messages == [f"matrix: 2 rows of {tmp_path / 'm.npy'} belong to no item and are left out"]


@pytest.mark.parametrize("ids", [[1, 2, 3], [1.0, 2.0, 3.0], ["1", 2, 3.0]])
def test_ids_are_found_whatever_they_were_written_as(ids, make_catalogue, tmp_path):
    with_ids(tmp_path, ids)
    np.save(tmp_path / "m.npy", EXACT)
    np.testing.assert_array_equal(fit(str(tmp_path / "m.npy"), three_items(make_catalogue)), EXACT)
    if len({type(item) for item in ids}) == 1:
        pl.DataFrame({"item_id": ids, "v": EXACT.tolist()}).write_parquet(tmp_path / "m.parquet")
        np.testing.assert_array_equal(fit(str(tmp_path / "m.parquet"), three_items(make_catalogue)), EXACT)


def test_a_file_name_is_no_pattern(make_catalogue, tmp_path):
    pl.DataFrame({"item_id": ["1", "2", "3"], "v": EXACT.tolist()}).write_parquet(tmp_path / "m[1].parquet")
    pl.DataFrame({"item_id": ["1", "2", "3"], "v": (EXACT * 2).tolist()}).write_parquet(tmp_path / "m1.parquet")
    np.testing.assert_array_equal(fit(str(tmp_path / "m[1].parquet"), three_items(make_catalogue)), EXACT)
