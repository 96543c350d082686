"""Figures of the docs, made again. Takes minutes: .ci/nightly."""

import json
import sys

import numpy as np
import pytest

from tests.commands import ROOT, run

HOUR = 3600  # seconds


@pytest.mark.nightly
@pytest.mark.parametrize("size", [64, 256])
def test_gaussian_errors(size, tmp_path):
    command = [sys.executable, "-m", "launch.studies.gaussian_error", f"--size={size}", f"--out={tmp_path}"]
    result = run(command, timeout=2 * HOUR)
    assert result.returncode == 0, result.stderr
    documented = json.loads((ROOT / "docs" / "gaussian_error.json").read_text())
    documented = [row for row in documented if row["process"]["shape"][0] == size]
    for row, found in zip(documented, json.loads((tmp_path / "gaussian_error.json").read_text()), strict=True):
        assert found["relative_flops"] == pytest.approx(row["relative_flops"], abs=0.01)
        for solver in ("ancestral", "ddim"):
            np.testing.assert_allclose(found[solver]["relative_error"], row[solver]["relative_error"], rtol=1e-6)
            np.testing.assert_allclose(found[solver]["variance_ratios"], row[solver]["variance_ratios"], atol=2e-6)


@pytest.mark.nightly
def test_the_first_command(tmp_path):
    """README's, as it is: emoji that are far nearer to the data than noise, whose relative distance is above 1."""
    result = run([sys.executable, "-m", "launch.quickstart", f"--workdir={tmp_path}/run"], timeout=HOUR)
    assert result.returncode == 0, result.stderr
    result = run([sys.executable, "-m", "launch.evaluate", f"--workdir={tmp_path}/run", "--num=1024"], timeout=HOUR)
    assert result.returncode == 0, result.stderr
    (line,) = map(json.loads, (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines())
    assert line["results"]["low_pass"]["frechet_relative"] < 0.2
