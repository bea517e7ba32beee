"""Error rates and power of `keras_actlab.advise`, from simulated users.

A/A: the variant of a user is the model itself with other random weights, so each verdict "better" or "worse" is false.
The user trains a small network on noisy data and looks three times at growing numbers of pairs.

Planted effect: the test error of a model is drawn from a normal distribution, and the variant is better by 1, 2 or 3
standard deviations of a pair. The share of users whose variant is called better stands beside the power that their
reports state for this effect.
"""

import random
import tempfile
from pathlib import Path
from typing import Annotated, Any

import joblib
import keras
import numpy as np
import pandas as pd
import typer
from scipy.stats import binomtest
from tqdm import tqdm

import keras_actlab
from keras_actlab.advice.verdicts import alpha_of_look
from keras_actlab.experiments import Paired
from keras_actlab.files import write
from recipes.common import cli

LOOKS = (5, 10, 15)
PAIRS = 10
EFFECTS = (1, 2, 3)


def own_seed(user: int) -> int:
    """Returns a seed of this user. The engine seeds `random` for each pair, the same way for all users."""
    return int(np.random.SeedSequence([user, random.randrange(2**31)]).generate_state(1)[0])


def same_model(user: int) -> list[dict[str, Any]]:
    """Returns the verdicts of one user of A/A, one row for each look."""
    noise = np.random.default_rng(user)
    x = noise.normal(size=(120, 3)).astype("float32")
    y = (np.abs(x[:, 0]) + 0.5 * x[:, 1] + 0.5 * noise.normal(size=120)).astype("float32")

    def draw(model: keras.Model) -> keras.Model:
        for layer in model.layers:
            layer.kernel.assign(keras.initializers.GlorotUniform(own_seed(user))(layer.kernel.shape))
        return model

    def build() -> keras.Model:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        return draw(model)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for look in LOOKS:
            advice = keras_actlab.advise(
                build,
                (x[:60], y[:60]),
                (x[60:90], y[60:90]),
                (x[90:], y[90:]),
                variants={"redrawn": draw},
                epochs=5,
                batch_size=60,
                budget=f"{look} pairs",
                path=folder,
                progress=False,
            )
            rows += [{"look": look, "variant": each.variant, "verdict": each.verdict} for each in advice]
    return rows


def planted(user: int, effect: float) -> list[dict[str, Any]]:
    """Returns the verdict of one user whose variant is better by `effect` standard deviations of a pair.

    The model is a constant that is drawn from N(10, 1) and is not trained. Its mean absolute error is this constant.
    That of the variant is drawn from N(10 - effect * sqrt(2), 1).
    """

    def with_constant(model: keras.Model, mean: float) -> keras.Model:
        model.layers[-1].bias.assign([mean + np.random.default_rng(own_seed(user)).normal()])
        return model

    def build() -> keras.Model:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        model.compile(keras.optimizers.SGD(1e-12), "mae")
        return with_constant(model, 10.0)

    data = np.zeros((4, 1), "float32"), np.zeros((4, 1), "float32")
    with tempfile.TemporaryDirectory() as folder:
        advice = keras_actlab.advise(
            build,
            data,
            data,
            data,
            variants={"better": lambda model: with_constant(model, 10.0 - effect * 2**0.5)},
            epochs=1,
            batch_size=4,
            budget=f"{PAIRS} pairs",
            path=folder,
            progress=False,
        )
    differences = (advice.values["better"] - advice.values["as is"]).to_numpy()
    power = Paired(differences).power(effect * 2**0.5, alpha_of_look(1, 1))
    return [
        {"effect": effect, "look": 1, "variant": "better", "verdict": advice["better"].verdict, "stated power": power}
    ]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns shares of verdicts, with exact 95 % intervals (Clopper and Pearson)."""
    lines = {}
    same = rows[rows["question"] == "A/A"]
    for look in sorted(same["look"].dropna().unique()):
        wrong = (
            same[same["look"] <= look].groupby("user")["verdict"].agg(lambda each: each.isin(["better", "worse"]).any())
        )
        lines[f"A/A, any false verdict, up to look {look:g}"] = _share(wrong)
    for question, found in rows[rows["effect"].notna()].groupby("question"):
        stated = {"stated power": found["stated power"].mean()}
        lines[f"{question}, better"] = _share(found["verdict"] == "better") | stated
        lines[f"{question}, no difference"] = _share(found["verdict"] == "no difference")
    return pd.DataFrame.from_dict(lines, orient="index")


def _share(found: pd.Series) -> dict[str, float]:
    low, high = binomtest(int(found.sum()), len(found)).proportion_ci()
    return {"users": len(found), "share": found.mean(), "95 % from": low, "to": high}


def answer(question: str, user: int) -> list[dict[str, Any]]:
    """Returns the rows of one simulated user."""
    rows = same_model(user) if question == "A/A" else planted(user, float(question.split()[0]))
    return [{"question": question, "user": user} | row for row in rows]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    users: Annotated[int, typer.Option(min=1, help="Number of simulated users for each question.")] = 200,
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Measures false verdicts and power of `advise`, an experiment of our own.

    Prints a table; writes all verdicts and the table.
    """
    file = out / "advice_calibration.csv"
    rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["question", "user", "effect"])
    questions = ["A/A", *(f"{effect} standard deviations" for effect in EFFECTS)]
    wanted = [(question, user) for question in questions for user in range(1 if smoke else users)]
    missing = sorted(set(wanted) - set(zip(rows["question"], rows["user"], strict=True)))
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for new in tqdm(parallel(joblib.delayed(answer)(*each) for each in missing), total=len(missing), unit="user"):
        rows = pd.concat([rows, pd.DataFrame(new)], ignore_index=True) if len(rows) else pd.DataFrame(new)
        write(file, rows.to_csv(index=False))
    table = summary(rows)
    write(out / "advice_calibration-table.csv", table.to_csv())
    print(table.to_string(float_format="{:.3f}".format, na_rep=""))


if __name__ == "__main__":
    app()
