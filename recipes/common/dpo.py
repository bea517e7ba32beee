"""Direct preference optimization (DPO) of a language model, as a Keras model, a loss and metrics.

A policy pi is trained on pairs of a chosen response w and a rejected response l to the same prompt, with a fixed
reference policy:

    loss = -log sigmoid(beta * d),  d = (log pi(w) - log ref(w)) - (log pi(l) - log ref(l)),

where log pi(y) is the sum of the log-probabilities of the tokens of y after the prompt, the end-of-text token included.
The reward margin is beta * d, and the accuracy is the fraction of pairs with positive d.

The trained model returns the log-probabilities of both responses. Those of the reference do not change, so they are
computed once and used as the targets.

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
    """Log-probabilities of responses: for each, the sum over its tokens, given the tokens before.

    They are float32 for every dtype policy. Drop-out is inactive in training, too, as in the code of DPO's authors: the
    reference is the policy before training.

    Args:
        policy: A causal language model such as those of keras-hub: it takes a dictionary of `token_ids` and
            `padding_mask` and returns logits of the next token.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dictionary of integers `token_ids`, `padding_mask` (1 for text) and `response_mask` (1 for the tokens
            of responses), each of shape `(batch, responses, length)`. The policy computes all
            responses of a batch in one call.

    Output shape:
        `(batch, responses)`.
    """

    def __init__(self, policy: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        self.built = True  # it has no weights beside those of the policy, which is built

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        """Returns the log-probabilities."""
        _, responses, length = ops.shape(inputs["token_ids"])  # on TensorFlow, `length` may be a tensor
        tokens, text, response = (
            ops.reshape(inputs[name], (-1, length)) for name in ("token_ids", "padding_mask", "response_mask")
        )
        logits = self.policy({"token_ids": tokens[:, :-1], "padding_mask": text[:, :-1]}, training=False)
        logits = ops.cast(logits, "float32")
        # A log-softmax would need a second array as large as the logits.
        taken = ops.squeeze(ops.take_along_axis(logits, tokens[:, 1:, None], axis=-1), -1)
        log_probabilities = taken - ops.logsumexp(logits, axis=-1)
        summed = ops.sum(log_probabilities * ops.cast(response[:, 1:], "float32"), axis=-1)
        return ops.reshape(summed, (-1, responses))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        policy = keras.saving.serialize_keras_object(self.policy)
        policy.pop("compile_config", None)  # Keras cannot restore that of keras-hub's models
        return super().get_config() | {"policy": policy}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ResponseLogProbability":
        """Makes the model from its arguments."""
        return cls(**config | {"policy": keras.saving.deserialize_keras_object(config["policy"])})


@keras.saving.register_keras_serializable(package="recipes")
def negative_log_likelihood(counts: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns the loss of supervised fine-tuning, `-log pi(w)`. The targets, `counts`, are not used."""
    return -log_probabilities[:, 0]


@keras.saving.register_keras_serializable(package="recipes")
def nats_per_token(counts: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns the mean negative log-probability of a response's tokens, given their number."""
    return -log_probabilities[:, 0] / counts[:, 0]


def preference(reference: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns d, the difference of the log-ratios of policy and reference for the chosen and the rejected response.

    Args:
        reference: Log-probabilities of both responses under the reference.
        log_probabilities: Log-probabilities of both responses under the policy.
    """
    ratios = log_probabilities - reference
    return ratios[:, 0] - ratios[:, 1]


@keras.saving.register_keras_serializable(package="recipes")
def accuracy(reference: Tensor, log_probabilities: Tensor) -> Tensor:
    """Returns 1 for each pair with positive d, and 0 for others."""
    return ops.cast(preference(reference, log_probabilities) > 0, "float32")


@keras.saving.register_keras_serializable(package="recipes")
def margin(reference: Tensor, log_probabilities: Tensor, beta: float) -> Tensor:
    """Returns reward margins."""
    return beta * preference(reference, log_probabilities)


@keras.saving.register_keras_serializable(package="recipes")
class DPOLoss(keras.losses.Loss):
    """The loss of DPO. The targets are the log-probabilities under the reference.

    Args:
        beta: Strength of the penalty for departing from the reference.
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
    """Compiles a network for fine-tuning on one response to each prompt, with its number of tokens as the target."""
    network.compile(optimizer, negative_log_likelihood, metrics=[nats_per_token])


def compile_dpo(network: ResponseLogProbability, optimizer: keras.optimizers.Optimizer, beta: float) -> None:
    """Compiles a network for DPO, with the log-probabilities under the reference as targets."""
    margins = keras.metrics.MeanMetricWrapper(margin, name="margin", beta=beta)
    network.compile(optimizer, DPOLoss(beta), metrics=[margins, accuracy])


def fingerprint(*parts: str | np.ndarray) -> str:
    """Returns a digest of texts and arrays, as 64 characters."""
    digest = hashlib.sha256()
    for part in map(np.asarray, parts):
        digest.update(f"{part.dtype} {part.shape} ".encode() + part.tobytes())
    return digest.hexdigest()


def reference_log_probabilities(network: ResponseLogProbability, data: Any, path: Path, identity: str) -> np.ndarray:
    """Returns the predictions of a network, from a file if it was written for the same weights and data.

    Args:
        network: The network.
        data: Batches, with a length.
        path: A file that ends with `.npz`, which is replaced as a whole.
        identity: Text that identifies the data and the architecture of the network.

    Returns:
        Array of shape `(pairs, responses)`.
    """
    identity = fingerprint(identity, *network.get_weights())
    # A damaged file makes zipfile, zlib and NumPy raise errors of many types; it is replaced.
    with contextlib.suppress(Exception), path.open("rb") as file, np.load(file) as archive:
        if archive["identity"] == identity:
            return archive["log_probabilities"]
    found = network.predict(data, steps=len(data), verbose=0)
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, identity=identity, log_probabilities=found)
    return found
