import json
import logging
from dataclasses import replace

import cv2
import numpy as np

import ssd_jax
from tests.commands import TINY, launch
from tests.conftest import tiny_config
from tests.run.test_own_network import DenseConfig


def test_prepare(tmp_path, caplog):
    """What is prepared trains; what was prepared otherwise is refused in a line."""
    random = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "given" / ("ant", "bee")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (20, 30, 3), np.uint8))
    (tmp_path / "given" / "ant" / "broken.png").write_bytes(b"\x89PNG")
    folder = ["--config.data.source=folder", f"--config.data.folder={tmp_path}/given", "--config.process.image_size=8"]
    prepare = ["launch.prepare", "--config=openmoji32", f"--out={tmp_path}/made", "--config.data.crop=adm"]
    result = launch(*prepare, *folder)
    assert result.returncode == 0, result.stderr
    assert "12 images of 8x8x3" in result.stdout and "1 that cannot be read left out" in result.stdout
    assert "classes: ant 6, bee 6" in result.stdout and "broken.png' is left out" in result.stderr
    told = json.loads((tmp_path / "made" / "dataset.json").read_text())
    assert told["class_names"] == ["ant", "bee"] and told["images"] == 12 and told["crop"] == "adm"
    made = ["--config.data.source=array_record", f"--config.data.folder={tmp_path}/made", "--config.model.num_classes=2"]
    train = ["launch.train", "--config=openmoji32", f"--workdir={tmp_path}/run", *TINY, *made]
    result = launch(*train)
    assert result.returncode == 2 and "was prepared with data.crop adm, but it is area" in result.stderr
    config = tiny_config(steps=2, batch_size=8)
    data = replace(config.data, source="array_record", folder=str(tmp_path / "made"), crop="adm")
    with caplog.at_level(logging.INFO, "ssd_jax"):
        ssd_jax.train(replace(config, data=data, model=DenseConfig(num_classes=2)), tmp_path / "run")
    assert "training on 12 images of 8x8x3 in 2 classes (ant, bee)" in caplog.text
    for arguments, message in (
        (folder[:2], "was begun with other data: shape was [8, 8] and is [32, 32]; choose another folder"),
        (made[:2], "data.source is array_record, which is prepared already"),
    ):
        result = launch(*prepare, *arguments)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") <= 2, result.stderr
