"""The report of an answer: one HTML file that opens offline."""

import base64
import io
from typing import TYPE_CHECKING

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from keras_actlab.advice.figures import differences, rates
from keras_actlab.experiments.figures import curves

if TYPE_CHECKING:  # answers call `html`
    from keras_actlab.advice.result import Advice


def html(advice: "Advice") -> str:
    """Returns the report, with its pictures within."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_actlab.advice", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    pictures = {"differences": differences(advice), "rates": rates(advice)}
    if advice.question.epochs is None:
        pictures["curves"] = curves(advice.results)
    return environment.get_template("report.html.jinja").render(
        advice=advice,
        answer=advice.to_dict(),
        pictures={name: _inline(figure) for name, figure in pictures.items()},
        tables={
            "verdicts": _table(advice.table),
            "chosen": _table(advice.chosen),
            "costs": _table(advice.costs),
            "failures": _table(advice.results.failures[["method", "stage", "split", "seed", "failure"]]),
        },
    )


def _table(table: pd.DataFrame) -> str:
    styler = table.style.format(precision=4, na_rep="", thousands=" ", escape="html").format_index(escape="html")
    html: str = styler.to_html(table_attributes='class="numbers"')
    return html


def _inline(figure: Figure) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
