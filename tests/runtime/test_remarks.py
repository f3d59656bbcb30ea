"""Warnings point at the caller, and are one line on the command line."""

from __future__ import annotations

import warnings

import pytest

from conftest import Problem
from malformed import call
from selfinformed.runtime.remarks import Remark, on_one_line, remark
from selfinformed.training.headroom import probe


def test_a_remark_points_at_the_code_that_called_the_library(problem: Problem) -> None:
    for said in (lambda: remark("from here"), lambda: probe(problem.net, problem.store("holdout"), problem.store("holdout"), epochs=0)):
        with pytest.warns(Remark) as caught:
            said()
        assert {warning.filename for warning in caught} == {__file__}


def test_on_the_command_line_it_is_one_line_and_other_warnings_are_as_ever() -> None:
    assert on_one_line(Remark("Not to be believed."), Remark, "x.py", 3) == "selfinformed: Not to be believed.\n"
    assert on_one_line(UserWarning("theirs"), UserWarning, "x.py", 3) == "x.py:3: UserWarning: theirs\n"
    before = warnings.formatwarning
    try:
        call("--help")
        assert warnings.formatwarning is on_one_line
    finally:
        warnings.formatwarning = before
