"""What the writers wrote is read back by the tools' own readers."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keras_actlab.trackers import MLflowWriter, TensorBoardWriter, WandbWriter

pytestmark = pytest.mark.one_backend

VALUES = np.array([0.0, 1.0, 1.0, np.nan, 3.0])


def write(writer):
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, 1])
    for step in (0, 5):
        writer.scalar("boundaries/first/largest_move", 0.5 + step, step)
        writer.histogram("activations/curve/inputs", VALUES, step)
        writer.figure("activations/curve/curve", figure, step)
    plt.close(figure)
    writer.close()


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(TensorBoardWriter(tmp_path / "logs"))
    events = accumulator.EventAccumulator(str(tmp_path / "logs"), {"histograms": 0, "images": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("boundaries/first/largest_move")] == [(0, 0.5), (5, 5.5)]
    histogram = events.Histograms("activations/curve/inputs")[1]
    assert (histogram.step, histogram.histogram_value.num, histogram.histogram_value.sum) == (5, 4, 5)
    assert [e.step for e in events.Images("activations/curve/curve")] == [0, 5]
    assert events.Images("activations/curve/curve")[0].encoded_image_string.startswith(b"\x89PNG")


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("units")
    with pytest.raises(ValueError, match="`run_id` must be given if no run is active"):
        MLflowWriter()
    with mlflow.start_run() as run:
        write(MLflowWriter())
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "boundaries/first/largest_move")
    assert [(one.step, one.value) for one in history] == [(0, 0.5), (5, 5.5)]
    found = client.download_artifacts(run.info.run_id, "activations/curve")
    histogram = json.loads((Path(found) / "inputs/00000005.json").read_text())
    assert sum(histogram["counts"]) == 4
    assert histogram["edges"][0] == 0
    assert histogram["edges"][-1] == 3
    assert (Path(found) / "curve/00000000.png").read_bytes().startswith(b"\x89PNG")


def records(path):
    """The records of an offline run: W&B's messages in LevelDB's log format, of which its package has no reader."""
    from wandb.proto import wandb_internal_pb2

    content, start, message = path.read_bytes(), 7, b""  # after the file's own header
    while start + 7 <= len(content):
        left = -start % 32768 or 32768  # of the block
        if left < 7:
            start += left
            continue
        length, kind = int.from_bytes(content[start + 4 : start + 6], "little"), content[start + 6]
        message += content[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    run = wandb.init(mode="offline", dir=tmp_path, project="test", settings=wandb.Settings(silent=True))
    run.log({"loss": 1.0}, step=100)  # another callback's steps
    write(WandbWriter(run))
    run.finish()
    wandb.teardown()  # waits for the process that writes the file
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            # A value such as a histogram has an item for each of its keys.
            rows.append({"|".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    steps = "keras_actlab/step"
    moves = {row[steps]: value for row in rows for key, value in row.items() if key.endswith("largest_move")}
    assert moves == {0: 0.5, 5: 5.5}
    histograms = [row for row in rows if row.get("activations/curve/inputs|_type") == "histogram"]
    assert [(row[steps], sum(row["activations/curve/inputs|values"])) for row in histograms] == [(0, 4), (5, 4)]
    images = [value for row in rows for key, value in row.items() if key == "activations/curve/curve|path"]
    assert len(images) == 2
    for image in images:
        assert (path.parent / "files" / image).read_bytes().startswith(b"\x89PNG")


def test_a_missing_tool(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"needs tensorboardX. Install the extra \[trackers\]"):
        TensorBoardWriter("logs")
