"""Pinned versions against the advisories known when the table below was made by hand; needs no network, and knows nothing that came later.

    python scripts/advisories.py

Ends with 1 if a version in constraints.txt is below one that mends an advisory. Lists, too, which advisories the lower bounds in pyproject.toml let in. An
advisory that is not in the table is not found: `pip-audit --requirement constraints.txt`, where there is a network, asks the whole database.
"""

from __future__ import annotations

import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
MADE = date(2026, 11, 26)


class Advisory(NamedTuple):
    """Versions of `package` before `below` have it."""

    package: str
    below: str
    name: str
    what: str
    source: str


NVD, PYSEC, GHSA = "https://nvd.nist.gov/vuln/detail/", "https://github.com/pypa/advisory-database/tree/main/vulns/", "https://github.com/advisories/"
TABLE = [
    Advisory("torch", "1.13.1", "CVE-2022-45907", "jit.annotations.parse_type_line evaluates text", PYSEC + "torch/PYSEC-2022-43015.yaml"),
    Advisory("torch", "2.2.0", "CVE-2024-31580", "heap buffer overflow in the mobile interpreter", PYSEC + "torch/PYSEC-2024-252.yaml"),
    Advisory("torch", "2.2.0", "CVE-2024-31583", "use after free in the mobile interpreter", PYSEC + "torch/PYSEC-2024-251.yaml"),
    Advisory("torch", "2.6.0", "CVE-2025-32434", "torch.load(weights_only=True) runs code", GHSA + "GHSA-53q9-r3pm-6pq6"),
    Advisory("torch", "2.7.1", "CVE-2025-2953", "mkldnn_max_pool2d can crash", PYSEC + "torch/PYSEC-2025-191.yaml"),
    Advisory("torch", "2.7.1", "CVE-2025-55558", "Inductor overflows a buffer with Conv2d and hardshrink", PYSEC + "torch/PYSEC-2025-208.yaml"),
    Advisory("torch", "2.8.0", "CVE-2025-3730", "ctc_loss can crash", GHSA + "GHSA-887c-mr87-cxwp"),
    Advisory("torch", "2.11.0", "CVE-2026-4538", "loading a pt2 archive unpickles", PYSEC + "torch/PYSEC-2026-139.yaml"),
    Advisory("torch", "2.13.0", "CVE-2025-3000", "jit.script corrupts memory", GHSA + "GHSA-rrmf-rvhw-rf47"),
    Advisory("numpy", "1.22.0", "CVE-2021-34141", "incomplete comparison of strings", NVD + "CVE-2021-34141"),
    Advisory("scipy", "1.10.0", "CVE-2023-25399", "reference leak", NVD + "CVE-2023-25399"),
    Advisory("scikit-learn", "1.5.0", "CVE-2024-5206", "TfidfVectorizer keeps tokens of the training data", NVD + "CVE-2024-5206"),
    Advisory("joblib", "1.2.0", "CVE-2022-21797", "pre_dispatch is evaluated", NVD + "CVE-2022-21797"),
    Advisory("pydantic", "2.4.0", "CVE-2024-3772", "slow regular expression for addresses", NVD + "CVE-2024-3772"),
    Advisory("jinja2", "3.1.4", "CVE-2024-34064", "xmlattr lets attributes in", NVD + "CVE-2024-34064"),
    Advisory("jinja2", "3.1.5", "CVE-2024-56326", "the sandbox lets str.format out", NVD + "CVE-2024-56326"),
    Advisory("jinja2", "3.1.6", "CVE-2025-27516", "the sandbox lets |attr out", NVD + "CVE-2025-27516"),
    Advisory("pyyaml", "5.4", "CVE-2020-14343", "FullLoader runs code", NVD + "CVE-2020-14343"),
    Advisory("fonttools", "4.43.0", "CVE-2023-45139", "the subsetter reads external XML entities", NVD + "CVE-2023-45139"),
    Advisory("fonttools", "4.60.2", "CVE-2025-66034", "varLib writes any file", GHSA + "GHSA-768j-98cg-p3fv"),
    Advisory("pillow", "10.0.1", "CVE-2023-4863", "libwebp overflows a buffer", NVD + "CVE-2023-4863"),
    Advisory("pillow", "10.2.0", "CVE-2023-50447", "ImageMath.eval runs code", NVD + "CVE-2023-50447"),
    Advisory("pillow", "10.3.0", "CVE-2024-28219", "_imagingcms overflows a buffer", NVD + "CVE-2024-28219"),
    Advisory("pillow", "11.3.0", "CVE-2025-48379", "writing DDS overflows a buffer", NVD + "CVE-2025-48379"),
    Advisory("pillow", "12.1.1", "CVE-2026-25990", "reading PSD writes out of bounds", NVD + "CVE-2026-25990"),
    Advisory("pillow", "12.3.0", "CVE-2026-59199", "paste and crop write out of bounds", NVD + "CVE-2026-59199"),
    Advisory("pillow", "13.0.0", "CVE-2026-96639", "frames of another mode reuse memory", "https://pillow.readthedocs.io/en/stable/releasenotes/13.0.0.html"),
    Advisory("pillow", "13.0.0", "CVE-2026-112403", "the JPEG decoder overflows a buffer", "https://pillow.readthedocs.io/en/stable/releasenotes/13.0.0.html"),
    Advisory("pyarrow", "14.0.1", "CVE-2023-47248", "reading Arrow and Parquet files runs code", PYSEC + "pyarrow/PYSEC-2023-238.yaml"),
    Advisory("pyarrow", "23.0.1", "CVE-2026-25087", "use after free in reading IPC files (not from Python)", GHSA + "GHSA-rgxp-2hwp-jwgg"),
    Advisory("transformers", "4.36.0", "CVE-2023-6730", "RagRetriever unpickles", NVD + "CVE-2023-6730"),
    Advisory("transformers", "4.48.0", "CVE-2024-11392", "converting checkpoints unpickles", NVD + "CVE-2024-11392"),
    Advisory("transformers", "4.53.0", "CVE-2025-5197", "slow regular expression", NVD + "CVE-2025-5197"),
    Advisory("transformers", "4.57.1", "PYSEC-2025-216", "last affected 4.57.0", PYSEC + "transformers/PYSEC-2025-216.yaml"),
    Advisory("onnx", "1.16.0", "CVE-2024-27318", "external data are read outside the folder", NVD + "CVE-2024-27318"),
    Advisory("onnx", "1.16.2", "CVE-2024-5187", "unpacking test data writes any file", GHSA + "GHSA-6rq9-53c3-f7vj"),
    Advisory("onnx", "1.21.0", "CVE-2026-27489", "external data follow symbolic links", PYSEC + "onnx/PYSEC-2026-2239.yaml"),
    Advisory("onnx", "1.21.0", "CVE-2026-34445", "external data set any attribute", PYSEC + "onnx/PYSEC-2026-2240.yaml"),
    Advisory("onnx", "1.21.0", "CVE-2026-34446", "external data follow hard links", PYSEC + "onnx/PYSEC-2026-2241.yaml"),
    Advisory("protobuf", "6.31.1", "CVE-2025-4565", "recursion without end", NVD + "CVE-2025-4565"),
    Advisory("protobuf", "6.33.5", "CVE-2026-0994", "json_format recurses without end", GHSA + "GHSA-7gcm-g887-7qv7"),
    Advisory("grpcio", "1.65.4", "CVE-2024-7246", "one client's headers reach another's", NVD + "CVE-2024-7246"),
    Advisory("werkzeug", "3.0.3", "CVE-2024-34069", "the debugger can be reached from another site", NVD + "CVE-2024-34069"),
    Advisory("werkzeug", "3.0.6", "CVE-2024-49767", "forms take memory without end", NVD + "CVE-2024-49767"),
    Advisory("markdown", "3.8.1", "CVE-2025-69534", "malformed HTML stops it", NVD + "CVE-2025-69534"),
    Advisory("pymdown-extensions", "10.16.1", "CVE-2025-68142", "slow regular expression", NVD + "CVE-2025-68142"),
    Advisory("pygments", "2.15.1", "CVE-2022-40896", "slow regular expression", NVD + "CVE-2022-40896"),
    Advisory("requests", "2.32.4", "CVE-2024-47081", ".netrc of another host is sent", NVD + "CVE-2024-47081"),
    Advisory("urllib3", "2.5.0", "CVE-2025-50181", "redirects are followed though switched off", NVD + "CVE-2025-50181"),
    Advisory("urllib3", "2.6.3", "CVE-2026-21441", "compressed redirects take memory without end", NVD + "CVE-2026-21441"),
    Advisory("certifi", "2024.7.4", "CVE-2024-39689", "a withdrawn root certificate", NVD + "CVE-2024-39689"),
    Advisory("idna", "3.7", "CVE-2024-3651", "slow decoding", NVD + "CVE-2024-3651"),
    Advisory("h11", "0.16.0", "CVE-2025-43859", "lenient chunks let requests be smuggled in", NVD + "CVE-2025-43859"),
    Advisory("tqdm", "4.66.3", "CVE-2024-34062", "options of the command line are evaluated", NVD + "CVE-2024-34062"),
    Advisory("filelock", "3.20.1", "CVE-2025-68146", "a symbolic link set between two steps is followed", NVD + "CVE-2025-68146"),
    Advisory("filelock", "3.20.3", "CVE-2026-22701", "the same in SoftFileLock", NVD + "CVE-2026-22701"),
    Advisory("tornado", "6.4.2", "CVE-2024-52804", "slow parsing of cookies", NVD + "CVE-2024-52804"),
    Advisory("tornado", "6.5", "CVE-2025-47287", "logging of bad multipart data without end", NVD + "CVE-2025-47287"),
    Advisory("jupyter-core", "5.8.1", "CVE-2025-30167", "a folder that others may write to is searched (Windows)", NVD + "CVE-2025-30167"),
    Advisory("ipython", "8.10.0", "CVE-2023-24816", "set_term_title runs a command (Windows)", NVD + "CVE-2023-24816"),
    Advisory("setuptools", "78.1.1", "CVE-2025-47273", "PackageIndex writes any file", NVD + "CVE-2025-47273"),
    Advisory("starlette", "0.49.1", "CVE-2025-62727", "slow parsing of Range", NVD + "CVE-2025-62727"),
    Advisory("uvicorn", "0.11.7", "CVE-2020-7695", "headers can be split", NVD + "CVE-2020-7695"),
]


def main() -> int:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line]
    pins = {canonicalize_name(line.partition("==")[0]): Version(line.partition("==")[2]) for line in lines}
    hit = [f"{row.package} {pins[row.package]} is below {row.below}: {row.name}, {row.what} ({row.source})" for row in affecting(TABLE, pins)]
    covered = len({row.package for row in TABLE} & set(pins))
    print(f"{len(TABLE)} advisories of {covered} of the {len(pins)} pinned packages; the table is {(date.today() - MADE).days} days old ({MADE})")
    print(*hit or ["no pinned version is below one that mends an advisory of the table"], sep="\n")
    for row in affecting(TABLE, lowest()):
        print(f"allowed by pyproject.toml: {row.package} below {row.below}, {row.name}, {row.what}")
    return bool(hit)


def affecting(table: list[Advisory], versions: dict[str, Version]) -> list[Advisory]:
    """The advisories that these versions have."""
    return [row for row in table if row.package in versions and versions[row.package] < Version(row.below)]


def lowest() -> dict[str, Version]:
    """The lowest version of each core dependency that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = [(canonicalize_name(requirement.name), list(requirement.specifier)) for requirement in map(Requirement, project["dependencies"])]
    return {name: Version(specifiers[0].version) for name, specifiers in bounds if specifiers}


if __name__ == "__main__":
    sys.exit(main())
