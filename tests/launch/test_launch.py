"""The commands themselves, as a user types them."""

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd_jax.files.decode import decode
from ssd_jax.files.images import write_png
from ssd_jax.metrics import Statistics, moments, save_statistics
from tests.commands import ROOT, TINY, launch, run
from tests.conftest import FAST_COMPILE


def read(path: Path) -> np.ndarray:
    image = decode(path.read_bytes())
    assert image is not None
    return image


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("quickstart") / "run"
    return workdir, launch("launch.quickstart", f"--workdir={workdir}", *TINY)


@pytest.mark.nightly  # .ci/run has a quickstart of its own
def test_quickstart_leaves_pictures_and_says_where(quickstart):
    workdir, result = quickstart
    assert result.returncode == 0, result.stderr
    assert read(workdir / "samples.png").shape == (774, 774, 3)  # pixels enlarged 48 times
    height, width, _ = read(workdir / "denoising.png").shape
    pitch = (height - 2) / (4 * 2)
    assert width >= 768 and (width - 2) % pitch == 0 and (pitch - 2) % 8 == 0
    for word in ("samples.png", "denoising.png", "launch.train", "launch.sample"):
        assert word in result.stdout
    assert "100%" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.nightly
def test_train_starts_from_another_run(quickstart, tmp_path):
    """All of it fits, more levels or not; whoever goes on must mean the same run."""
    train = ["launch.train", "--config=openmoji32", f"--workdir={tmp_path}/run", *TINY, "--config.process.num_levels=1"]
    result = launch(*train, f"--init_from={quickstart[0]}")
    assert result.returncode == 0 and re.search(r"started from step 3: (\d+) of \1 parameters taken", result.stderr), (
        result.stderr
    )
    told = json.loads((tmp_path / "run" / "origin.json").read_text())
    assert told["step"] == 3 and not told["new"] and "faces" in told["classes"]
    more = [*train, "--config.train.steps=5"]
    result = launch(*more, f"--init_from={tmp_path}/run")
    assert result.returncode == 2 and "holds a run that started from other weights; leave out init_from" in result.stderr
    result = launch(*more, f"--init_from={quickstart[0]}")
    assert result.returncode == 0 and "going on from step 3" in result.stderr, result.stderr
    result = launch(*train, f"--init_from={tmp_path}/nothing")
    assert result.returncode == 2 and "is no run: it has no config.json" in result.stderr


@pytest.mark.nightly  # four commands; tests/run shows the same from Python
def test_train_goes_on_and_sample_repeats_itself(quickstart, tmp_path):
    workdir, _ = quickstart
    more = [*TINY, "--config.train.steps=5"]
    result = launch("launch.train", "--config=configs/openmoji32.py", f"--workdir={workdir}", *more)
    assert result.returncode == 0 and "going on from step 3" in result.stderr, result.stderr
    sample = ["launch.sample", f"--workdir={workdir}", "--num=5", "--num_steps=6", "--seed=3"]
    sample += ["--guidance=2", "--guidance_interval=-4,4", "--threshold_quantile=0.99"]
    result = launch(*sample, "--batch=5", "--animation=webp", f"--out={tmp_path}/a")
    assert result.returncode == 0 and "step 5" in result.stdout, result.stderr
    names = [f"{i:06d}.png" for i in range(5)]
    assert sorted(os.listdir(tmp_path / "a")) == [*names, "animation.webp", "grid.png", "samples.json", "samples.npz"]
    a = np.load(tmp_path / "a" / "samples.npz")["images"]
    assert a.shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(read(tmp_path / "a" / names[4]), a[4])
    # Holes are filled, on other devices and in other batches; what is there is left alone.
    (tmp_path / "a" / names[1]).unlink()
    (tmp_path / "a" / names[3]).write_bytes(b"half")
    times = [(tmp_path / "a" / names[i]).stat().st_mtime_ns for i in (0, 2, 4)]
    result = launch(*sample, "--num=6", "--batch=2", f"--out={tmp_path}/a", devices=2)
    assert result.returncode == 0, result.stderr
    again = np.load(tmp_path / "a" / "samples.npz")["images"].astype(int)
    assert again.shape == (6, 8, 8, 3) and np.abs(again[:5] - a).max() <= 1
    assert times == [(tmp_path / "a" / names[i]).stat().st_mtime_ns for i in (0, 2, 4)]
    result = launch(*sample, "--seed=4", f"--out={tmp_path}/a")
    assert result.returncode == 2 and "their seed is 3, not 4" in result.stderr
    result = launch(*sample, f"--out={ROOT}/tests")
    assert result.returncode == 2 and "not an empty folder" in result.stderr


@pytest.mark.nightly  # trains until it is full
def test_a_full_disk_is_one_line(quickstart, tmp_path):
    workdir = shutil.copytree(quickstart[0], tmp_path / "run")
    before = sorted(os.listdir(workdir / "checkpoints"))
    train = [sys.executable, "-m", "launch.train", "--config=openmoji32", f"--workdir={workdir}", *TINY]
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", *train]  # KiB a file, as on a disk that is full
    result = run([*limited, "--config.train.steps=6"], XLA_FLAGS=FAST_COMPILE)
    told = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2 and told[-1].startswith("error: checkpoints cannot be written to"), result.stderr
    assert "Traceback" not in result.stderr and "earlier ones are as they were" in told[-1]
    assert [name for name in sorted(os.listdir(workdir / "checkpoints")) if name.isdecimal()] == before


@pytest.mark.nightly
def test_edit(quickstart, tmp_path):
    workdir, _ = quickstart
    edit = ["launch.edit", f"--workdir={workdir}", "--num=3", "--num_steps=5", "--label=0"]
    image, mask = np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)
    mask[4:] = 255
    write_png(tmp_path / "image.png", image)
    write_png(tmp_path / "mask.png", mask)
    files = [f"--image={tmp_path}/image.png", f"--mask={tmp_path}/mask.png"]
    result = launch(*edit, *files, "--resample=2", f"--out={tmp_path}/inpainted")
    assert result.returncode == 0 and "grid.png" in result.stdout, result.stderr
    painted = read(tmp_path / "inpainted" / "000002.png")
    assert (painted[:4] == 200).all() and (painted[4:] != 200).any()
    assert launch(*edit, "--interpolate=0,3", f"--out={tmp_path}/path").returncode == 0
    assert (tmp_path / "path" / "animation.gif").stat().st_size > 100
    varied = launch(*edit, files[0], "--strength=0.1", "--memory_limit=64", f"--out={tmp_path}/varied")
    assert varied.returncode == 0, varied.stderr
    drawn = [read(tmp_path / "varied" / f"{i:06d}.png").astype(int) for i in range(3)]
    assert all(picture.shape == (8, 8, 3) for picture in drawn) and np.abs(drawn[0] - drawn[1]).max() > 0
    thumbnail = np.arange(48).reshape(4, 4, 3).astype(np.uint8) + 100
    write_png(tmp_path / "thumbnail.png", thumbnail)
    large = launch(*edit, f"--thumbnail={tmp_path}/thumbnail.png", f"--out={tmp_path}/enlarged")
    assert large.returncode == 0, large.stderr
    means = read(tmp_path / "enlarged" / "000001.png").reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(means, thumbnail, atol=1)
    result = launch(*edit, f"--thumbnail={tmp_path}/inpainted/grid.png", f"--out={tmp_path}/large")
    assert result.returncode == 2 and "pixels, but must be 8x8 or 4x4" in result.stderr
    result = launch(*edit, files[0], "--strength=1.5", f"--out={tmp_path}/large")
    assert result.returncode == 2 and "strength is 1.5, but must be > 0 and <= 1" in result.stderr
    assert not (tmp_path / "large").exists()


@pytest.mark.nightly
def test_evaluate(quickstart, tmp_path):
    workdir, _ = quickstart
    evaluate = ["launch.evaluate", f"--workdir={workdir}", "--num=16", "--num_steps=4", f"--samples={tmp_path}/samples"]
    result = launch(*evaluate)
    assert result.returncode == 0 and "launch.import_inception" in result.stderr, result.stderr
    assert "mean colour" in result.stdout and "warning: 16 images for" in result.stderr
    assert "drawn by dpmpp_2m_sde, 4 calls, guidance 2" in result.stdout  # the run's own, but for the calls
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "samples").iterdir())]
    again = launch(*evaluate)  # nothing is drawn twice, and the same numbers come out
    assert again.stdout == result.stdout
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "samples").iterdir())]
    first, second = map(json.loads, (workdir / "evaluations.jsonl").read_text().splitlines())
    assert first == second and first["seed"] == 0 and first["solver"] == "dpmpp_2m_sde" and first["num"] == 16
    assert {"config_sha256", "step", "parameters", "commit", "jax", "reference", "eta"} < set(first)
    # Images against themselves, without a run.
    alone = launch("launch.evaluate", f"--samples={tmp_path}/samples", f"--reference={tmp_path}/samples")
    assert alone.returncode == 0, alone.stderr
    (line,) = map(json.loads, (tmp_path / "samples" / "evaluations.jsonl").read_text().splitlines())
    assert abs(line["results"]["low_pass"]["frechet_relative"]) < 1e-6
    assert line["results"]["spectrum"]["distance"] < 1e-6 and line["results"]["low_pass"]["recall"] == 1
    write_png(tmp_path / "samples" / "odd.png", np.zeros((8, 9, 3), np.uint8))
    result = launch("launch.evaluate", f"--samples={tmp_path}/samples", "--reference=openmoji")
    assert result.returncode == 2 and "odd.png" in result.stderr and "odd.png is 9x8 pixels, but" in result.stderr
    statistics = Statistics("low_pass", (64, 64), {"pool": moments(np.random.default_rng(0).normal(size=(9, 3)))})
    save_statistics(tmp_path / "other.npz", statistics)
    result = launch(*evaluate, f"--reference={tmp_path}/other.npz")
    assert result.returncode == 2 and "holds statistics of 64 px images, not of 8 px" in result.stderr


@pytest.mark.nightly
def test_experiment(tmp_path):
    tiny = [*TINY, "--config.data.source=openmoji", "--variants=one_level,preserve", "--seeds=1", "--num=24"]
    experiment = ["launch.studies.experiment", f"--out={tmp_path}/runs", "--ancestral_num=8", *tiny]
    result = launch(*experiment)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\| preserve +\| +1 \|", result.stdout) and "ancestral, 20 calls, 8 images" in result.stdout
    for name in ("results.json", "results.md", "results.png", "grid.png", "preserve-seed0/config.json"):
        assert (tmp_path / "runs" / name).is_file()
    record = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert FAST_COMPILE in record["xla_flags"]
    found = record["results"]["dpmpp_2m"]["preserve"][0]
    assert found["metrics"]["low_pass"]["frechet"] > 0 and 0 < found["relative_flops"] < 1
    again = launch(*experiment)  # all is there
    assert again.stdout == result.stdout and "compiling" not in again.stderr and "sampling" not in again.stderr
    runs = [tmp_path / "runs" / f"{name}-seed0" for name in ("preserve", "one_level")]
    drawn = [next(folder.glob("step_*-dpmpp_2m-*.json")) for folder in runs]
    states = ["--images=64", "--states=16"]
    result = launch("launch.studies.diagnose", f"--workdir={runs[0]}", f"--baseline={runs[1]}", *states)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert {row[1] for row in rows} == {"stay1", "up1to0", "stay0"} and rows[-1][0] == "0"
    assert float(rows[-1][-2]) == float(rows[-1][-1]) == pytest.approx(np.log(64), abs=1e-3)  # x_0 tells all
    result = launch("launch.studies.diagnose", f"--workdir={runs[0]}", f"--baseline={runs[0]}", *states)
    assert result.returncode == 2 and "must be of one level" in result.stderr
    result = launch("launch.studies.detail", f"--workdir={runs[0]}", "--states=16", "--timesteps=0,2")
    assert result.returncode == 0 and "3-4 cycles" in result.stdout, result.stderr
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:4]] == ["0", "2"]
    handover = ["launch.studies.handover", f"--baseline={runs[1]}", "--num=24", "--batch=16"]
    result = launch(*handover, f"--workdir={runs[0]}")
    assert result.returncode == 0, result.stderr
    rows = [columns(line) for line in result.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == ["ours", "baseline", "ours, baseline", "ours, baseline", "baseline"]
    found = {name: json.loads(path.read_text())["metrics"] for name, path in zip(("ours", "baseline"), drawn, strict=True)}
    for row in rows[:2]:  # from noise the samplers are the experiment's
        assert float(row[2]) == pytest.approx(found[row[1]]["low_pass"]["frechet_relative"], rel=1e-3)
    result = launch(*handover, f"--workdir={runs[1]}")
    assert result.returncode == 2 and "must be of several levels" in result.stderr
    result = launch(*experiment, "--variants=presrve")
    assert result.returncode == 2 and "variant" in result.stderr and "preserve" in result.stderr


@pytest.mark.nightly
def test_frontier(tmp_path):
    tiny = [*TINY, "--variants=one_level,levels_proportional", "--points=0.001,0.002", "--seeds=2"]
    frontier = ["launch.studies.frontier", f"--out={tmp_path}/runs", "--num=24", "--repeats=1", "--ema_widths=0.2", *tiny]
    begun = launch(*frontier, "--variants=levels_proportional", "--points=0.001", "--seeds=1")
    assert begun.returncode == 0, begun.stderr
    result = launch(*frontier)  # goes on with more of everything
    assert result.returncode == 0, result.stderr
    file = tmp_path / "runs" / "rows.json"
    rows = json.loads(file.read_text())["rows"]
    assert [(row["variant"], row["steps"], row["seed"]) for row in rows[:6:2]] == [
        ("one_level", 2, 0),
        ("levels_proportional", 2, 0),
        ("one_level", 3, 0),
    ]
    assert (
        len(rows) == 16 and {row["average"] for row in rows} == {"own", "0.2"} and {row["seed"] for row in rows} == {0, 1}
    )
    one_level, levels = rows[:4:2]
    assert levels["training_flops"] < one_level["training_flops"]
    assert levels["sampling_flops"] < 1 == one_level["sampling_flops"]
    assert all(row["low_pass"] > 0 and row["training_seconds"] > 0 and "mean colour" in row["bands"] for row in rows)
    assert decode((tmp_path / "runs" / "grid.png").read_bytes()).shape[2] == 3
    again = launch("launch.studies.frontier", f"--rows={file}", f"--out={tmp_path}/drawn")
    assert again.returncode == 0 and again.stdout.splitlines()[:-1] == result.stdout.splitlines()[:-1]
    assert (tmp_path / "drawn" / "frontier.png").stat().st_size > 1000
    result = launch(*frontier, "--variants=levels_proportional", "--seeds=1")  # a part of them; the others stay
    assert result.returncode == 0, result.stderr
    kept = json.loads(file.read_text())["rows"]
    fields = ("variant", "average", "point", "seed", "low_pass")
    before, after = (sorted(tuple(row[field] for field in fields) for row in each) for each in (rows, kept))
    assert before == after
    for flag, other in (("--config.train.learning_rate=0.1", "config"), ("--num=25", "images")):
        result = launch(*frontier, flag)
        assert result.returncode == 2 and f"is of other {other}; choose another --out" in result.stderr
    result = launch(*frontier, "--points=much")
    assert result.returncode == 2 and "--points is much, but must be numbers above 0" in result.stderr
    result = launch(*frontier, "--variants=levles")
    assert result.returncode == 2 and "levels_two_thirds" in result.stderr


@pytest.mark.nightly
def test_parameterisations(tmp_path):
    study = ["launch.studies.parameterisations", f"--out={tmp_path}/runs", "--num=24", *TINY]
    begun = launch(*study, "--kinds=flow")
    assert begun.returncode == 0, begun.stderr
    result = launch(*study, "--kinds=eps,flow")  # goes on: with 20 timesteps the noise is too much for eps
    assert result.returncode == 0 and "compiling" not in result.stderr, result.stderr
    rows = json.loads((tmp_path / "runs" / "rows.json").read_text())["rows"]
    assert [(row["process"], row["kind"]) for row in rows] == [
        (p, k) for k in ("flow", "eps") for p in ("one_level", "levels")
    ]
    assert all(row["low_pass"] > 0 and row["seed"] == 0 and row["weighting"] == "min_snr" for row in rows[:2])
    assert all("'eps', which multiplies" in row["refused"] for row in rows[2:])
    assert rows[1]["sampling_flops"] < 1 == rows[0]["sampling_flops"]
    assert len(columns(result.stdout.splitlines()[0])) > 5 and (tmp_path / "runs" / "parameterisations.md").is_file()
    result = launch(*study, "--num=25")
    assert result.returncode == 2 and "is of other images; choose another --out" in result.stderr
    for flag, said in (
        ("--kinds=epsilon", "--kinds is 'epsilon', but must be one of: x0, eps"),
        ("--weightings=min", "snr"),
    ):
        result = launch(*study, flag)
        assert result.returncode == 2 and said in result.stderr


@pytest.mark.nightly
def test_photographs(tmp_path):
    """Crops of twice the size, halved: of two flat photographs in turn; a small one and a drawing are left out."""
    (tmp_path / "given" / "below").mkdir(parents=True)
    flat = {
        "a.jpg": (40, 96, 128),
        "below/b.jpeg": (200, 900, 64),
        "small.jpg": (90, 40, 128),
        "drawing.png": (90, 96, 128),
    }
    for name, (value, *shape) in flat.items():
        Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(tmp_path / "given" / name)
    command = ["launch.studies.photographs", f"--folder={tmp_path}/given", f"--out={tmp_path}/made", "--size=16", "--num=5"]
    result = launch(*command, "--lines=64")
    assert result.returncode == 0 and "5 images of 16 x 16 pixels out of 2 photographs" in result.stdout, result.stderr
    images = [read(file) for file in sorted((tmp_path / "made").iterdir())]
    assert {image.shape for image in images} == {(16, 16, 3)}
    assert [image[0, 0, 0] for image in images] == [40, 200, 40, 200, 40]
    result = launch(*command, "--lines=64")
    assert result.returncode == 2 and "is there already; choose another folder" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"given", "made"}
    names, some = tmp_path / "names.txt", [*command[:2], f"--out={tmp_path}/some", *command[3:], "--lines=64"]
    for text, status, told in (
        ("# those below\nbelow/b.jpeg\n", 0, "out of 1 photographs"),
        ("b.jpeg\nelow/b.jpeg\n", 2, "lists what is no JPEG below --folder: elow/b.jpeg"),
    ):
        names.write_text(text)
        result = launch(*some, f"--names={names}")
        assert result.returncode == status and told in result.stdout + result.stderr, result.stderr
        some[2] = f"--out={tmp_path}/other"


@pytest.mark.nightly
def test_depth(tmp_path):
    study = ["launch.studies.depth", f"--out={tmp_path}", *TINY, "--steps=6"]
    result = launch(*study, "--blocks=2")
    assert result.returncode == 0, result.stderr
    result = launch(*study, "--blocks=2", "--blocks=1")  # goes on with the other
    assert result.returncode == 0 and "2 blocks a level" not in result.stderr, result.stderr
    rows = json.loads((tmp_path / "depth.json").read_text())["rows"]
    assert [row["blocks"] for row in rows] == [1, 2] and rows[0]["parameters"] < rows[1]["parameters"]
    for row in rows:
        assert row["step"] == [1, 2, 3, 4, 5, 6] and row["skipped"] == 0
        assert row["largest_norm"] == max(row["gradient_norm"]) and min(row["gradient_norm"] + row["loss"]) > 0
    assert rows[0]["loss"][0] == pytest.approx(rows[1]["loss"][0], rel=1e-5)  # born alike, on the same draws
    assert len(result.stdout.splitlines()) == 6 and (tmp_path / "depth.png").stat().st_size > 1000
    result = launch(*study, "--config.train.seed=1")
    assert result.returncode == 2 and "is of another config; choose another --out" in result.stderr


@pytest.mark.nightly
def test_allocation(quickstart, tmp_path):
    result = launch("launch.studies.allocation", f"--workdir={quickstart[0]}", "--draws=4", "--parts=2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [columns(line)[0] for line in lines[1:6]] == ["stay1", "stay1", "up1to0", "stay0", "stay0"]
    advised = shlex.split(lines[-1])  # can be pasted
    train = launch("launch.train", "--config=openmoji32", f"--workdir={tmp_path}/run", *TINY, *advised)
    assert train.returncode == 0 and "images a step by stage: stay1 " in train.stderr, train.stderr


def columns(line: str) -> list[str]:
    """The cells of a line of a table, as it is laid out for the terminal."""
    return re.split(r"\s{2,}", line.strip())


@pytest.mark.nightly
def test_what_is_known_before_training_comes_as_tables(tmp_path):
    config = ["--config=configs/openmoji32.py", *TINY, "--spectrum=natural"]
    result = launch("launch.analyze", *config, "--num_steps=10", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    assert [columns(line)[0] for line in lines[head + 1 : head + 4]] == ["stay1", "up1to0", "stay0"]
    assert all(len(columns(line)) == len(columns(lines[head])) for line in lines[head : head + 4])
    (found,) = (columns(line) for line in lines if line.startswith("this process"))
    assert len(found) == 6 and 0 < float(found[1]) < 1.1  # of 0, 1, 2, 3-4 and (on the diagonal) 5-8 cycles
    assert (tmp_path / "analysis.json").is_file() and (tmp_path / "analysis.png").is_file()
    result = launch("launch.optimize", *config, "--flops=5", "--process", "--training_flops=0.9")
    assert result.returncode == 0, result.stderr
    rows = [columns(line) for line in result.stdout.splitlines()[:4]]
    assert [row[0] for row in rows] == ["plan", "spacing 'log_snr'", "spacing 'optimal'", "optimal process"]
    cost, training = (
        rows[0].index(column) for column in ("as many operations as calls at full size", "training operations")
    )
    assert all(float(row[cost]) <= 5 for row in rows[1:]) and float(rows[3][training]) <= 0.9
    assert result.stdout.count("stage  resolution") == 3 and "timesteps: 19," in result.stdout


def test_flags_that_need_another():
    for flag, message in {"--process": "--process needs --flops", "--leap=3": "give --process, too"}.items():
        result = launch("launch.optimize", "--config=openmoji32", flag)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.nightly
def test_gaussian_error(tmp_path):
    result = launch("launch.studies.gaussian_error", "--size=8", "--num_timesteps=20", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1:-1] for line in (tmp_path / "gaussian_error.md").read_text().splitlines() if line[:1] == "|"]
    measured = json.loads((tmp_path / "gaussian_error.json").read_text())
    assert len(rows) == 2 + len(measured) and rows[2][2].strip() == "-"  # one level has no operator
    for row, process in zip(rows[2:], measured, strict=True):
        assert float(row[6]) == pytest.approx(process["ancestral"]["relative_error"], rel=1e-3)
    assert (tmp_path / "gaussian_error.png").is_file()


@pytest.mark.nightly
def test_what_levels_save_on_clips(tmp_path):
    arguments = ["--size=8", "--frames=4", "--num_timesteps=20", "--time_weight=1", f"--out={tmp_path}"]
    result = launch("launch.studies.video", *arguments)
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "video.json").read_text())
    flops = {(each["halved"], each["time_weight"], each["schedule"]): each["relative_flops"] for each in measured}
    assert flops["nothing", None, "-"] == flops["nothing", 1.0, "-"] == 1
    decay = "convex_decay 0.5"
    assert flops["space and time", 1.0, decay] < flops["space", 1.0, decay]
    assert flops["space and time", 1.0, decay] < flops["space", None, decay]
    rows = [line for line in (tmp_path / "video.md").read_text().splitlines() if line[:1] == "|"]
    assert len(rows) == 2 + len(measured) == 10 and "4x8x8" in rows[-1]


@pytest.mark.nightly
def test_searched_processes_against_published_ones(tmp_path):
    study = ["launch.studies.optimal_process", "--size=16", "--budget=4", "--num_timesteps=50", f"--out={tmp_path}"]
    result = launch(*study)
    assert result.returncode == 0, result.stderr
    file = tmp_path / "optimal_process.json"
    rows = {row["process"]: row for row in json.loads(file.read_text())}
    assert all(row["flops"] <= 4 * (1 + 1e-6) for row in rows.values()) and rows["one level"]["begins"] == []
    searched, limited = rows["searched"], rows["searched, training no dearer"]
    assert searched["error"] < min(rows["published"]["error"], rows["published, preserve"]["error"])
    assert limited["training_cost"] <= rows["published"]["training_cost"]
    assert (tmp_path / "optimal_process.png").is_file() and "| searched " in (tmp_path / "optimal_process.md").read_text()
    file.write_text(json.dumps(list(rows.values())[:-1]))  # as if it had been stopped
    again = launch(*study)
    assert again.returncode == 0 and again.stdout == result.stdout
    other = launch(*study, "--num_timesteps=60")
    assert other.returncode == 2 and "is of other --num_timesteps; choose another --out" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch.train", "--config=configs/openmoji32.py", "--config.train.stepz=3"], "stepz"),
        (["launch.train", "--config=configs/openmoji32.py", "--config.train.steps=many"], "steps"),
        (["launch.train", "--config=configs/nowhere.py"], "nowhere.py"),
        (
            ["launch.train", "--config.train.steps=3"],
            "--config is missing: give a Python file or one of: aut",
        ),
        (["launch.train", "--config=openmoji32", "--wrkdir=nowhere"], "flag is '--wrkdir', but must be one of: --workdir"),
        (["launch.train", "--config=configs/openmoji32.py", "--config.process.image_size=30"], "multiples of 4"),
        (["launch.train", "--config=configs/folder.py", "--config.data.folder=nowhere"], "'nowhere'"),
        (["launch.sample", "--out=nowhere"], "no config.json"),
        (["launch.sample", "--out=nowhere", "stray"], "'stray'"),
        (["launch.evaluate", "--samples=nowhere"], "no config.json"),
        (["launch.edit", "--out=nowhere"], "give one of: --image and --strength"),
        (
            ["launch.sample", "--out=nowhere", "--guidance_interval=1"],
            "--guidance_interval is '1', but must be two numbers",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    result = launch(*arguments, f"--workdir={tmp_path}/run")
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2 and message in lines[-1] and lines[-1].startswith("error: "), result.stderr
    assert len(lines) == 1 and not (tmp_path / "run").exists()
