import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import advice_calibration

pytestmark = pytest.mark.one_backend


def test_shares_of_users():
    same = [
        ("A/A", 0, 5, "better"),
        ("A/A", 0, 10, "cannot tell"),
        ("A/A", 1, 5, "cannot tell"),
        ("A/A", 1, 10, "worse"),
    ]
    rows = pd.DataFrame(
        [dict(zip(("question", "user", "look", "verdict"), row, strict=True)) for row in same]
        + [
            {"question": "1 standard deviations", "user": user, "effect": 1, "verdict": verdict, "stated power": power}
            for user, verdict, power in ((0, "better", 0.6), (1, "no difference", 0.8), (2, "cannot tell", 0.7))
        ]
    )
    table = advice_calibration.summary(rows)
    # A false verdict at any look counts.
    assert table.loc["A/A, any false verdict, up to look 5", ["users", "share"]].tolist() == [2, 0.5]
    assert table.loc["A/A, any false verdict, up to look 10", "share"] == 1.0
    found = table.loc["1 standard deviations, better"]
    assert found["share"] == pytest.approx(1 / 3)
    assert found["stated power"] == pytest.approx(0.7)
    # Of 3 users: 1 - (1 - p)^3 = 0.025 at the lower end of the interval of Clopper and Pearson.
    assert found["95 % from"] == pytest.approx(1 - 0.975 ** (1 / 3))
    assert table.loc["1 standard deviations, no difference", "share"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_smoke(tmp_path):
    arguments = ["--smoke", "--out", str(tmp_path)]
    for _ in range(2):  # the second call finds all rows
        finished = CliRunner().invoke(advice_calibration.app, arguments, catch_exceptions=False)
        assert finished.exit_code == 0
    rows = pd.read_csv(tmp_path / "advice_calibration.csv")
    assert rows.groupby("question").size().to_dict() == {"A/A": 3} | {f"{n} standard deviations": 1 for n in (1, 2, 3)}
