"""The check that every recipe has to pass: test labels decide nothing but test errors."""

import dataclasses

import numpy as np

from keras_actlab import experiments


def assert_test_labels_decide_nothing(comparison: experiments.Comparison, folder) -> None:
    """Runs a comparison with its test labels as they are and permuted, and compares what was chosen."""

    def permuted(index: int) -> experiments.Split:
        split = comparison.split(index)
        inputs, labels = split.test
        order = np.random.default_rng(0).permutation(len(labels))
        return dataclasses.replace(split, test=(inputs, labels[order]))

    found = [
        experiments.run(dataclasses.replace(comparison, data=data), folder / name, progress=False)
        for name, data in {"true.jsonl": comparison.split, "permuted.jsonl": permuted}.items()
    ]
    chosen = [
        {place: (row["hyperparameters"], row["epochs"]) for place, row in results.choices.items()} for results in found
    ]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == len(comparison.methods) * len(comparison.replicates)
    monitor = comparison.monitor
    assert not np.allclose(found[0].final[monitor], found[1].final[monitor])  # that they are the labels of the test
