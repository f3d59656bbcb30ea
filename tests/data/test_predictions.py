"""Saved predictions read the same from every format, and what is wrong with a file is said by its row."""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from selfinformed.data.predictions import Predictions, open_predictions
from selfinformed.data.targets import Targets, as_targets
from selfinformed.runtime.errors import SelfInformedError

N, K, C = 23, 5, 300
RNG = np.random.default_rng(0)
IDS = np.array([RNG.permutation(C)[:K] for _ in range(N)])
SCORES = RNG.integers(-4, 4, (N, K)) / 4  # many ties
SINGLE = [[int(label)] for label in RNG.integers(0, C, N)]
SEVERAL = [RNG.integers(0, C, RNG.integers(0, 4)).tolist() for _ in range(N)]
SEVERAL[3] = [7, 2, 7]


def arrays_of(ids, rows, scores) -> dict[str, np.ndarray]:
    labels = {"labels": np.array([label for row in rows for label in row], np.int32)}
    if rows != [row[:1] for row in rows] or not all(rows):
        labels["offsets"] = np.cumsum([0, *map(len, rows)])
    return {"ids": np.asarray(ids), **labels, **({} if scores is None else {"scores": np.asarray(scores)})}


def write_safetensors(path, ids, rows, scores):
    save_file(arrays_of(ids, rows, scores), path)


def write_multi_hot(path, ids, rows, scores):
    hot = as_targets([[], *map(set, rows)], C).multi_hot().numpy()[1:]
    np.savez(path, **{**arrays_of(ids, [[0]] * len(rows), scores), "labels": hot.astype(bool)})


def write_parquet(path, ids, rows, scores, list_of=pa.list_, **options):
    single = rows == [row[:1] for row in rows] and all(rows)
    labels = pa.array([row[0] for row in rows]) if single else pa.array(rows, pa.list_(pa.int32()))
    columns = {"ids": pa.array(np.asarray(ids).tolist(), list_of(pa.int64())), "labels": labels}
    if scores is not None:
        columns["scores"] = pa.array(np.asarray(scores).tolist(), list_of(pa.float32()))
    pq.write_table(pa.table({**columns, "path": ["x"] * len(rows)}), path, **options)


def write_csv(path, ids, rows, scores, end="\n"):
    columns = {"labels": rows, "path": [["x, y"]] * len(rows), "ids": ids, **({} if scores is None else {"scores": scores})}
    lines = [",".join(columns)] + [",".join(f'"{";".join(map(str, row))}"' for row in line) for line in zip(*columns.values())]
    path.write_text(end.join([*lines, "", " ", ""]), "utf-8-sig", newline="")


def write_folder(path, ids, rows, scores):
    path.mkdir(exist_ok=True)
    for name, part in {"b": slice(9, None), "a": slice(0, 9)}.items():
        write_safetensors(path / f"{name}.safetensors", ids[part], rows[part], None if scores is None else scores[part])


WRITERS = {
    "preds.safetensors": write_safetensors, "hot.npz": write_multi_hot, "preds.csv": write_csv, "folder": write_folder,
    "preds.npz": lambda path, *content: np.savez(path, **arrays_of(*content)),
    "compressed.npz": lambda path, *content: np.savez_compressed(path, **arrays_of(*content)),
    "preds.parquet": write_parquet,
    "fixed.parquet": lambda path, *content: write_parquet(path, *content, lambda entry: pa.list_(entry, len(content[0][0])), row_group_size=4),
}  # fmt: skip
every_format = pytest.mark.parametrize("name", WRITERS)
single_and_several = pytest.mark.parametrize("rows", [SINGLE, SEVERAL], ids=["single", "several"])


def row_17(name: str) -> str:
    return {"preds.csv": "preds.csv: line 19", "folder": "folder/b.safetensors: row 8"}.get(name, f"{name}: row 17")


def best(ids, scores, top_k) -> list[list[int]]:
    if scores is None or top_k == len(ids[0]):
        return [list(row[:top_k]) for row in np.asarray(ids).tolist()]
    ordered = [sorted(zip(row, of_row), key=lambda pair: (-pair[1], pair[0])) for row, of_row in zip(np.asarray(ids).tolist(), scores)]
    return [[label for label, _ in row[:top_k]] for row in ordered]


def read(predictions: Predictions, size: int = 65_536) -> tuple[list[list[int]], list[list[int]]]:
    ids, rows = [], []
    for some, targets in predictions.batches(size):
        assert isinstance(targets, Targets)
        assert (targets.n_labels, some.flags.c_contiguous) == (predictions.n_labels, True)
        assert some.dtype.kind in "iu"
        assert 1 <= len(some) == len(targets) <= size
        assert targets.labels.dtype == targets.offsets.dtype == np.int64
        ids += some.tolist()
        rows += [targets.of(i).tolist() for i in range(len(targets))]
    assert len(ids) == predictions.n_examples
    return ids, rows


def refused(path, *parts: str, n_labels: int | None = C, **options) -> str:
    """The message, on opening or while reading, must hold the parts."""
    with pytest.raises(SelfInformedError) as caught:
        read(open_predictions(path, n_labels, **options), 4)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


@every_format
@pytest.mark.parametrize("scores", [None, SCORES.astype(np.float32)], ids=["unscored", "scored"])
@single_and_several
def test_every_format_gives_the_same(tmp_path, name, rows, scores):
    path = tmp_path / name
    WRITERS[name](path, IDS, rows, scores)
    targets = as_targets([*map(set, rows)] if rows is SEVERAL else rows, C)
    for top_k in (None, 1, 3, K):
        predictions = open_predictions(str(path), C, top_k)
        assert (predictions.path, predictions.n_examples, predictions.top_k, predictions.n_labels) == (path, N, top_k or K, C)
        for size in (1, 4, 7, N, 65_536):
            for _ in range(2):  # again from the start
                assert read(predictions, size) == (best(IDS, scores, top_k or K), [targets.of(i).tolist() for i in range(N)])
    if name != "folder":
        assert [len(ids) for ids, _ in predictions.batches(10)] == [10, 10, 3]


@settings(max_examples=30)
@given(st.data())
def test_round_trip(data):
    n, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.dtype(">i4")]))
    entries = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    ids = np.array(data.draw(st.lists(st.lists(entries, min_size=width, max_size=width), min_size=n, max_size=n)), dtype)
    rows = data.draw(st.lists(st.lists(st.integers(0, C - 1), max_size=3), min_size=n, max_size=n))
    scores = data.draw(st.none() | st.lists(st.lists(st.floats(-100, 100, width=16), min_size=width, max_size=width), min_size=n, max_size=n))
    scores = None if scores is None else np.array(scores, data.draw(st.sampled_from([np.float16, np.float32, np.float64])))
    top_k, size = data.draw(st.integers(1, width)), data.draw(st.integers(1, n + 1))
    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS.keys() - {"folder"}:
            path = Path(folder) / name
            WRITERS[name](path, ids.astype(np.dtype(dtype).newbyteorder("=")) if "safe" in name else ids, rows, scores)
            assert read(open_predictions(path, C, top_k), size) == (best(ids, scores, top_k), [sorted(set(row)) for row in rows])


@every_format
def test_names(tmp_path, name):
    WRITERS[name](tmp_path / name, IDS, SINGLE, None)
    predictions = open_predictions(tmp_path / name, C)
    assert predictions.name(17) == f"{tmp_path}/{row_17(name)}"
    assert predictions.name(0) == f"{tmp_path / name}{ {'preds.csv': ': line 2', 'folder': '/a.safetensors: row 0'}.get(name, ': row 0') }"
    with pytest.raises(IndexError):
        predictions.name(N)


@every_format
def test_ids_are_left_to_the_check_of_the_counts(tmp_path, name):
    ids = IDS.copy()
    ids[2], ids[17] = [-1, 2**63 - 1, 0, 0, -(2**63)], 4
    WRITERS[name](tmp_path / name, ids, SINGLE, None)
    assert read(open_predictions(tmp_path / name, C))[0] == ids.tolist()


@pytest.mark.parametrize("name", ["preds.safetensors", "preds.npz"])
def test_unsigned_ids_beyond_64_bits_with_a_sign_are_refused(tmp_path, name):
    ids = IDS.astype(np.uint64)
    WRITERS[name](tmp_path / name, ids, SINGLE, None)
    assert next(open_predictions(tmp_path / name, C).batches())[0].dtype == np.int64
    ids[17, 2] = 2**63
    WRITERS[name](tmp_path / name, ids, SINGLE, None)
    refused(tmp_path / name, f"{name}: row 17 has the id {2**63}; ids must fit")


@every_format
@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_scores_are_finite(tmp_path, name, score):
    scores = SCORES.astype(np.float32)
    scores[17, 1] = score
    WRITERS[name](tmp_path / name, IDS, SINGLE, scores)
    for top_k in (None, 1):
        refused(tmp_path / name, f"{row_17(name)} has the score {score}; scores must be finite", top_k=top_k)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "hot.npz"])
@single_and_several
def test_labels_in_range(tmp_path, name, rows):
    rows = [*rows[:17], [C], *rows[18:]]
    WRITERS[name](tmp_path / name, IDS, rows, None)
    refused(tmp_path / name, f"{row_17(name)} has the label {C}; labels go from 0 to {C - 1} ({C} labels)")
    assert read(open_predictions(tmp_path / name, C + 1))[1][17] == [C]
    WRITERS[name](tmp_path / name, IDS, [*rows[:17], [-1], *rows[18:]], None)
    refused(tmp_path / name, f"{row_17(name)} has the label -1;")


def test_the_number_of_labels_is_said_and_files_agree(tmp_path):
    plain, stated, hot = tmp_path / "plain.safetensors", tmp_path / "stated.safetensors", tmp_path / "hot.npz"
    write_safetensors(plain, IDS, SINGLE, None)
    message = refused(plain, n_labels=None)
    assert message == f"n_labels: {plain} does not say how many labels there are; give n_labels (--n-labels N), or the label names (--labels FILE)"
    save_file(arrays_of(IDS, SINGLE, None), stated, {"n_labels": str(C)})
    write_multi_hot(hot, IDS, SINGLE, None)
    for path in (stated, hot):
        assert open_predictions(path).n_labels == open_predictions(path, C).n_labels == C
        refused(path, f"n_labels: {path} was saved for {C} labels, expected {C + 1}", n_labels=C + 1)
    assert open_predictions(tmp_path, None).n_labels == C  # one file of the folder says it for all
    save_file(arrays_of(IDS, SINGLE, None), tmp_path / "third.safetensors", {"n_labels": "12"})
    refused(tmp_path, "third.safetensors was saved for 12 labels, expected 300", n_labels=None)
    write_safetensors(tmp_path / "third.safetensors", IDS[:, :4], SINGLE, None)
    refused(tmp_path, "third.safetensors has 4 ids per example,", "plain.safetensors has 5; every file needs the same number")
    write_safetensors(tmp_path / "an empty one.safetensors", IDS[:0, :3], SINGLE[:0], None)
    refused(tmp_path, "third.safetensors has 4 ids per example,", "plain.safetensors has 5; every file needs the same number")
    for wrong in ("many", "-3", ""):
        save_file(arrays_of(IDS, SINGLE, None), stated, {"n_labels": wrong})
        refused(stated, f"has {wrong!r} in its metadata; expected a number of labels", n_labels=None)


@every_format
def test_top_k_and_size_in_range(tmp_path, name):
    WRITERS[name](tmp_path / name, IDS, SINGLE, None)
    for top_k in (K + 1, 0, -1, 1.5):
        refused(tmp_path / name, f"top_k: expected a whole number from 1 to {K}, the ids {tmp_path / name} has per example; got {top_k}", top_k=top_k)
    with pytest.raises(SelfInformedError, match="size: expected a whole number of at least 1; got 0"):
        next(open_predictions(tmp_path / name, C).batches(0))


LAYOUTS = {
    "has no 'ids'; expected ids, labels": {"ids": None},
    "has no 'labels'; expected ids, labels": {"labels": None},
    "ids is float64 [23, 5]; expected integers [N, K]": {"ids": SCORES},
    "ids is int64 []; expected integers [N, K]": {"ids": np.array(3)},
    "holds 0 examples of 5 ids; expected 1 or more of each": {"ids": IDS[:0], "labels": np.zeros(0, int)},
    "holds 23 examples of 0 ids; expected 1 or more of each": {"ids": IDS[:, :0]},
    "scores is float64 [23, 4]; expected floating point of 16, 32 or 64 bits [23, 5], the shape of ids": {"scores": SCORES[:, 1:]},
    "labels is int64 [22]; expected integers [23], one for each row of ids; or several for each, with offsets [24]": {"labels": np.arange(22)},
    "labels is int64 [9, 4]; expected multi-hot [23, C], a row for each": {"labels": np.zeros((9, 4), int)},
    "labels is int64 [23, 2]; expected integers [sum], since": {"labels": np.zeros((23, 2), int), "offsets": np.arange(24)},
    "offsets is int64 [23]; expected integers [24], one more than the examples": {"offsets": np.arange(23)},
    "row 0 has offsets 1 to 1; offsets must start at 0": {"offsets": np.array([1, *range(1, 24)])},
    "row 6 has offsets 6 to 5; offsets must start at 0, never fall, and end at 23,": {"offsets": np.array([*range(7), 5, *range(8, 24)])},
    "row 6 has offsets 6 to 24; offsets": {"offsets": np.array([*range(7), *[24] * 17])},
    "row 22 has offsets 22 to 22; offsets": {"offsets": np.array([*range(23), 22])},
    f"row 3 has offsets 3 to -{2**63}; offsets": {"offsets": np.array([0, 1, 2, 3, -(2**63), *range(5, 24)])},
}


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
@pytest.mark.parametrize("message", LAYOUTS)
def test_layout_of_arrays(tmp_path, name, message):
    arrays = {name: array for name, array in {**arrays_of(IDS, SINGLE, None), **LAYOUTS[message]}.items() if array is not None}
    arrays = {name: np.copy(array, order="C") for name, array in arrays.items()}
    if name == "a.npz":
        np.savez(tmp_path / name, **arrays)
    else:
        save_file(arrays, tmp_path / name)
        message = message.replace("is float64 ", "is F64 ").replace("is bool ", "is BOOL ").replace("is int64 ", "is I64 ")
    refused(tmp_path / name, message)


def test_types_that_numpy_lacks(tmp_path):
    path = tmp_path / "a.safetensors"

    def write(ids="U16", scores="F16", n=2):
        tensors = {"ids": (ids, [n, 3], [0, 12]), "scores": (scores, [2, 3], [12, 24]), "labels": ("U8", [2], [24, 26])}
        header = json.dumps({name: dict(zip(("dtype", "shape", "data_offsets"), tensor)) for name, tensor in tensors.items()}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(26))

    write()
    assert read(open_predictions(path, C)) == ([[0] * 3] * 2, [[0], [0]])
    write(scores="BF16")
    refused(path, "scores is BF16 [2, 3]; expected floating point of 16, 32 or 64 bits [2, 3], the shape of ids")
    write(n=2**60)
    refused(path, "cannot be read (SafetensorError:")


def test_npz_that_is_not_plain_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, ids=np.asfortranarray(IDS), labels=IDS[:, 0])
    refused(path, "a.npz: ids.npy is in Fortran order; save np.ascontiguousarray of it")
    np.savez(path, ids=IDS.astype(object), labels=IDS[:, 0])
    refused(path, "a.npz: ids is object [23, 5]; expected integers [N, K]")
    for entry in (0.5, 2.0, np.nan):
        hot = np.zeros((N, C))
        hot[17, 4] = entry
        np.savez(path, ids=IDS, labels=hot)
        refused(path, f"a.npz: row 17 has {entry} for label 4; multi-hot labels are 0 or 1")
    for shape in ((2**60, 5), (N, 2**50), (-N, -K), (N, K - 1)):  # a header that lies
        ids, labels = io.BytesIO(), io.BytesIO()
        np.save(labels, IDS[:, 0])
        np.lib.format.write_array_header_1_0(ids, {"descr": "<i8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ids.npy", ids.getvalue() + IDS.tobytes())
            archive.writestr("labels.npy", labels.getvalue())
        refused(path, "a.npz cannot be read (ValueError: ids.npy has", f"which is not {list(shape)} of int64)")


CSVS = {
    "b.csv has 2 'ids'": "ids,ids,labels\n1;2,1;2,1\n",
    "b.csv has no 'ids'; expected": "",
    "b.csv holds 0 examples": "ids,labels\n\n",
    "b.csv holds 1 examples of 0 ids": "ids,labels\n,1\n",
    "b.csv: line 4 has 2 ids, the rows before it have 3; every example needs the same number": "ids,labels\n1;2;3,\n1;2;3,\n1;2,0\n1;2;3,\n",
    "b.csv: line 3 has 1 scores for 2 ids; each id needs its score": "ids,labels,scores\n1;2,0,.1;.2\n1;2,0,.1\n",
    "b.csv: line 3 has 'x' among its ids; expected integers of at most 64 bits, separated by ;": "ids,labels\n1;2,0\n1;x,0\n",
    "b.csv: line 2 has '2.0' among its ids": "ids,labels\n1;2.0,0\n",
    "b.csv: line 2 has '1_0' among its labels": "ids,labels\n1;2,1_0\n",
    "b.csv: line 3 has '99999999999999999999999' among its labels": "ids,labels\n1;2,0\n1;2,1;99999999999999999999999\n",
    "b.csv: line 3 has 'high' among its scores; expected numbers": "ids,labels,scores\n1;2,0,.1;.2\n1;2,0,.1;high\n",
    "b.csv: line 3 has 1 columns, the header 2; mend it": "ids,labels\n1;2,0\n1;2\n",
    "b.csv: line 3 has 0 columns, the header 2; mend it": "ids,labels\n1;2,0\n\n1;2,0\n",
    "b.csv: line 2 or one after it breaks within quotes": 'ids,labels,path\n1;2,0,x\n1;2,0,"a\nb"\n1;2,0,x\n',
    "b.csv cannot be read (Error: unexpected end of data)": 'ids,labels\n1;2,"0\n1;2,0\n',
}


@pytest.mark.parametrize("message", CSVS)
def test_csv_that_is_wrong(tmp_path, message):
    (tmp_path / "b.csv").write_text(CSVS[message])
    refused(tmp_path / "b.csv", message)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_of_any_line_ends(tmp_path, end):
    write_csv(tmp_path / "b.csv", IDS, SEVERAL, SCORES, end)
    assert read(open_predictions(tmp_path / "b.csv", C), 4) == (IDS.tolist(), [sorted(set(row)) for row in SEVERAL])


PARQUETS = {
    "has no 'labels'; expected ids, labels": {"labels": None},
    "holds 0 examples of 0 ids": {"ids": pa.array([], pa.list_(pa.int8())), "labels": pa.array([], pa.int8())},
    "ids is int64; expected lists of integers": {"ids": [1, 2, 3, 4, 5, 6]},
    "ids is list<element: string>; expected lists of integers": {"ids": [["1"]] * 6},
    "scores is list<element: int64>; expected lists of floating-point numbers": {"scores": [[1, 2]] * 6},
    "b.parquet: row 5 has 3 ids, the rows before it have 2; every": {"ids": [[1, 2]] * 5 + [[1, 2, 3]]},
    "b.parquet: row 5 has 3 scores for 2 ids": {"scores": [[0.1, 0.2]] * 5 + [[0.1, 0.2, 0.3]]},
    "b.parquet: row 4 has null in its ids": {"ids": [[1, 2]] * 4 + [[1, None], [1, 2]]},
    "b.parquet: row 3 has null in its labels": {"labels": [1, 1, 1, None, 1, 1]},
    "b.parquet: row 2 has null in its labels": {"labels": [[], [], [1, None], [1], [1], [1]]},
    "b.parquet: row 5 has null in its scores": {"scores": [[0.1, 0.2]] * 5 + [[0.1, None]]},
}


@pytest.mark.parametrize("message", PARQUETS)
def test_parquet_that_is_wrong(tmp_path, message):
    columns = {"ids": [[1, 2]] * 6, "labels": [0] * 6, **PARQUETS[message]}
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), tmp_path / "b.parquet")
    refused(tmp_path / "b.parquet", message)


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", IDS, SINGLE, None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refused(tmp_path / "a.parquet") == "predictions: reading parquet: pyarrow is not installed; run: pip install 'selfinformed[parquet]'"


def test_what_is_not_there_or_of_another_kind(tmp_path):
    refused(tmp_path, f"{tmp_path} is none of what can be read; expected a .safetensors, .npz, .parquet or .csv file, or a folder of .safetensors")
    for name in ("no.npz", "no.csv", "no", "no.bin"):
        refused(tmp_path / name, f"{tmp_path / name} does not exist; expected a .safetensors, .npz")
    (tmp_path / "yes.bin").touch()
    refused(tmp_path / "yes.bin", "yes.bin is none of what can be read; expected")
    (tmp_path / "yes.csv").write_bytes(b"ids,labels\n1;2,0\n1;\xff,0\n")
    refused(tmp_path / "yes.csv", "yes.csv cannot be read (UnicodeDecodeError:")


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("folder", "preds.csv")])
def test_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, IDS, SEVERAL, SCORES.astype(np.float32))
    whole = path.read_bytes()
    for length in sorted({0, 1, 4, 8, 9, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 40))}):
        path.write_bytes(whole[:length])
        refused(path, f"predictions: {path} cannot be read (", "it may be cut off or damaged: save it again")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["preds.safetensors", "preds.npz", "compressed.npz"])
def test_flipped_bytes_raise_nothing_else(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, IDS, SEVERAL, SCORES.astype(np.float32))
    whole = path.read_bytes()
    for at in range(0, len(whole), 1 + len(whole) // 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        with suppress(SelfInformedError):
            read(open_predictions(path, C), 5)


def test_a_file_that_changes_meanwhile(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, IDS, SINGLE, None)
    predictions = open_predictions(path, C)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:10]))
    with pytest.raises(SelfInformedError, match=r"a.csv had 23 examples when opened, now 9; do not write to it meanwhile"):
        read(predictions)
