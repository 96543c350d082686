"""The files for clusters, as far as a machine without one can try them: against programs that note what they are told."""

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, run

FOLDER = ROOT / "launch" / "cluster"


def stub(folder: Path, name: str, script: str) -> None:
    """A program that notes its arguments in a file of its name, then does what `script` says."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/bash\necho "$@" >>{folder}/{name}.log\n{script}\n')
    (folder / name).chmod(0o755)


def told(folder: Path, name: str) -> list[str]:
    file = folder / f"{name}.log"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("script", ["slurm.sbatch", "tpu.sh"])
def test_scripts_are_clean(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    result = run(["shellcheck", str(FOLDER / script)])
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("status", "told_to_end", "requeued"),
    [(0, False, False), (2, False, False), (134, False, False), (143, False, True), (134, True, True), (2, True, False)],
)
def test_slurm_puts_back_what_was_interrupted(tmp_path, status, told_to_end, requeued):
    stub(tmp_path, "srun", f"{'kill -TERM $PPID;' if told_to_end else ''} exit {status}")
    stub(tmp_path, "scontrol", "")
    command = ["bash", str(FOLDER / "slurm.sbatch"), "--config", "x", "--config.model.widths=(8, 16)"]
    result = run(command, PATH=f"{tmp_path}:/usr/bin:/bin", SLURM_JOB_ID="7")
    assert result.returncode == status
    assert told(tmp_path, "srun") == ["--wait=120 python -m launch.train --config x --config.model.widths=(8, 16)"]
    assert told(tmp_path, "scontrol") == (["requeue 7"] if requeued else [])


def test_tpu_waits_for_its_slice_and_trains_on_all_of_it(tmp_path):
    """Asks for it once; arguments with spaces and quotes arrive as they are."""
    states = f"""
case "$*" in *"queued-resources describe"*)
    [ -e {tmp_path}/asked ] || exit 1
    echo x >>{tmp_path}/looked; [ "$(wc -l <{tmp_path}/looked)" -gt 4 ] && echo ACTIVE || echo "$EARLY" ;;
*"queued-resources create"*) touch {tmp_path}/asked ;;
esac"""
    stub(tmp_path, "gcloud", states)
    given: Any = {"ZONE": "z", "IMAGE": "image", "DISK": "host:/share", "POLL": "0", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = [
        "bash",
        str(FOLDER / "tpu.sh"),
        "name",
        "v5litepod-16",
        "--config.model.widths=(8, 16)",
        "--workdir",
        "/runs/x",
    ]
    result = run(command, **given, EARLY="PROVISIONING")
    assert result.returncode == 0, result.stderr
    commands = told(tmp_path, "gcloud")
    (created,) = (line for line in commands if "create" in line)
    assert "create name --zone z --node-id name --spot --accelerator-type v5litepod-16" in created
    assert sum("tpu-vm ssh name --zone z --worker all" in line for line in commands) == 1
    assert commands[-1].lstrip().startswith("sudo docker run") and commands[-1].rstrip().endswith(
        r"image train --config.model.widths=\(8\,\ 16\) --workdir /runs/x"
    )
    assert any("mountpoint -q /runs || sudo mount host:/share /runs" in line for line in commands)
    (tmp_path / "looked").unlink()
    (tmp_path / "gcloud.log").unlink()
    result = run(command, **(given | {"DISK": ""}), EARLY="PROVISIONING")
    assert result.returncode == 0 and not any("mount" in line for line in told(tmp_path, "gcloud"))
    (tmp_path / "looked").unlink()
    result = run(command, **given, EARLY="FAILED")
    assert result.returncode == 1 and "queued resource name is FAILED; delete it, and run the same again" in result.stderr
    result = run(command, **(given | {"IMAGE": ""}))
    assert result.returncode and "IMAGE: an image of launch/cluster/Dockerfile" in result.stderr


def test_the_job_of_kubernetes_is_one():
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    jobset = yaml.safe_load((FOLDER / "jobset.yaml").read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": replicated["template"]["spec"]}
    validate.validate(job, validate.latest_version(), strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    host = f"{jobset['metadata']['name']}-{replicated['name']}-0-0.{jobset['metadata']['name']}"
    assert f"--coordinator_address={host}:8476" in container["args"]
    assert f"--num_processes={job['spec']['completions']}" in container["args"]


def test_the_image_installs_what_there_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert 'RUN pip install --no-cache-dir ".[$EXTRA,gcs]"' in lines and 'ENTRYPOINT ["ssd-jax"]' in lines
    assert {"cuda13", "tpu", "gcs"} <= set(project["optional-dependencies"]) and "ssd-jax" in project["scripts"]
    (python,) = (line.removeprefix("FROM python:").removesuffix("-slim") for line in lines if line.startswith("FROM"))
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
