"""Direct preference optimization (DPO) of a language model, as a Keras model, a loss and metrics.

A policy pi is trained on pairs of a chosen response w and a rejected response l to the same prompt, against a
reference policy that stays as it is:

    loss = -log sigmoid(beta * d),  d = (log pi(w) - log ref(w)) - (log pi(l) - log ref(l)),

where log pi(y) is the sum of the log-probabilities of the tokens of y, its end included, after the prompt. The reward
margin is beta * d, and the accuracy the share of pairs whose d is positive.

The trained model gives the log-probabilities of both responses. Those of the reference do not change, so they are
computed once and are the targets.

Reference:

- [Rafailov et al., 2023](https://arxiv.org/abs/2305.18290), "Direct Preference Optimization: Your Language Model is
  Secretly a Reward Model".
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_actlab.files import atomic_write

Tensor = Any


@keras.saving.register_keras_serializable(package="recipes")
class ResponseLogProbability(keras.Model):
    """Log-probabilities of responses: the sum over the tokens of each, after what stands before them.

    They are float32 whatever the policy computes in. Drop-out is off, in training too, as in the code of DPO's authors:
    the reference is the policy before training.

    Args:
        policy: A causal language model, which returns logits of the next token for a dictionary of `token_ids` and
            `padding_mask`, like those of keras-hub.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dictionary of integers `token_ids`, `padding_mask` (1 for text) and `response_mask` (1 for the tokens
            of responses), each of shape `(batch, responses, length)`. All responses of a batch go through the policy
            together.

    Output shape:
        `(batch, responses)`.
    """

    def __init__(self, policy: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        self.built = True  # as the policy is; it has no weights of its own

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        """Returns the log-probabilities."""
        _, responses, length = ops.shape(inputs["token_ids"])  # on TensorFlow a tensor, where lengths differ
        tokens, text, response = (
            ops.reshape(inputs[name], (-1, length)) for name in ("token_ids", "padding_mask", "response_mask")
        )
        logits = self.policy({"token_ids": tokens[:, :-1], "padding_mask": text[:, :-1]}, training=False)
        logits = ops.cast(logits, "float32")
        # No log-softmax: it would be a second array of the size of the vocabulary for each token.
        taken = ops.squeeze(ops.take_along_axis(logits, tokens[:, 1:, None], axis=-1), -1)
        log_probabilities = taken - ops.logsumexp(logits, axis=-1)
        summed = ops.sum(log_probabilities * ops.cast(response[:, 1:], "float32"), axis=-1)
        return ops.reshape(summed, (-1, responses))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        policy = keras.saving.serialize_keras_object(self.policy)
        policy.pop("compile_config", None)  # keras-hub compiles its models, in a way that Keras cannot restore
        return super().get_config() | {"policy": policy}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ResponseLogProbability":
        """Makes the model from its arguments."""
        return cls(**config | {"policy": keras.saving.deserialize_keras_object(config["policy"])})


@keras.saving.register_keras_serializable(package="recipes")
def negative_log_likelihood(counts: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns the loss of supervised fine-tuning, `-log pi(w)`; what Keras calls the targets is not used."""
    return -log_probabilities[:, 0]


@keras.saving.register_keras_serializable(package="recipes")
def nats_per_token(counts: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns how surprising the tokens of a response are on average, given their number."""
    return -log_probabilities[:, 0] / counts[:, 0]


def preference(reference: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns d: how much more than the reference a policy prefers the chosen response over the rejected one.

    Args:
        reference: Log-probabilities of both under the reference.
        log_probabilities: Those under the policy.
    """
    ratios = log_probabilities - reference
    return ratios[:, 0] - ratios[:, 1]


@keras.saving.register_keras_serializable(package="recipes")
def accuracy(reference: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns 1 for a pair whose chosen response became more likely, compared to the rejected one, and else 0."""
    return ops.cast(preference(reference, log_probabilities) > 0, "float32")


@keras.saving.register_keras_serializable(package="recipes")
def margin(reference: Tensor, log_probabilities: Tensor, beta: float) -> Tensor:
    """Returns reward margins."""
    return beta * preference(reference, log_probabilities)


@keras.saving.register_keras_serializable(package="recipes")
class DPOLoss(keras.losses.Loss):
    """The loss of DPO; targets are the log-probabilities under the reference.

    Args:
        beta: How much a departure from the reference costs.
        **kwargs: Arguments of `keras.losses.Loss`.

    Raises:
        ValueError: If `beta` is not positive.
    """

    def __init__(self, beta: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < beta < float("inf"):
            raise ValueError(f"`beta` must be positive and finite. Received: beta={beta}")
        self.beta = beta

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the loss of each pair."""
        return -ops.log_sigmoid(margin(y_true, y_pred, self.beta))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return super().get_config() | {"beta": self.beta}


def compile_fine_tuning(network: ResponseLogProbability, optimizer: keras.optimizers.Optimizer) -> None:
    """Prepares a network to be fine-tuned on one response to each prompt, with its number of tokens as target."""
    network.compile(optimizer, negative_log_likelihood, metrics=[nats_per_token])


def compile_dpo(network: ResponseLogProbability, optimizer: keras.optimizers.Optimizer, beta: float) -> None:
    """Prepares a network for DPO, with the log-probabilities under the reference as targets."""
    margins = keras.metrics.MeanMetricWrapper(margin, name="margin", beta=beta)
    network.compile(optimizer, DPOLoss(beta), metrics=[margins, accuracy])


def fingerprint(*parts: str | np.ndarray) -> str:
    """Returns 64 characters that tell texts and arrays from others."""
    digest = hashlib.sha256()
    for part in map(np.asarray, parts):
        digest.update(f"{part.dtype} {part.shape} ".encode() + part.tobytes())
    return digest.hexdigest()


def reference_log_probabilities(network: ResponseLogProbability, data: Any, path: Path, identity: str) -> np.ndarray:
    """Returns what a network predicts, from a file if it was written for the same network and data.

    Args:
        network: The network; its weights are a part of what makes it the same.
        data: Batches, with a length.
        path: A file that ends with `.npz`, replaced as a whole.
        identity: Tells other data, or other activations of the network.

    Returns:
        Array of shape `(pairs, responses)`.
    """
    identity = fingerprint(identity, *network.get_weights())
    # A damaged file, which makes zipfile, zlib and NumPy raise errors of many types, is written anew.
    with contextlib.suppress(Exception), path.open("rb") as file, np.load(file) as archive:
        if archive["identity"] == identity:
            return archive["log_probabilities"]
    found = network.predict(data, steps=len(data), verbose=0)
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, identity=identity, log_probabilities=found)
    return found
