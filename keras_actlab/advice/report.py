"""The report of an answer: one HTML file that opens offline."""

import base64
import io
from typing import TYPE_CHECKING

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from keras_actlab.advice.figures import WIDTH, differences, rates
from keras_actlab.advice.verdicts import Verdict
from keras_actlab.experiments.figures import curves

if TYPE_CHECKING:  # answers call `html`
    from keras_actlab.advice.result import Advice


def html(advice: "Advice") -> str:
    """Returns the report, with its pictures within."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_actlab.advice", "."),
        autoescape=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    pictures = {"differences": differences(advice), "rates": rates(advice)}
    if advice.question.epochs is None:
        pictures["curves"] = curves(advice.results)
        pictures["curves"].set_size_inches(WIDTH, 3.5)
    return environment.get_template("report.html.jinja").render(
        advice=advice,
        answer=advice.to_dict(),
        sentences=[(each.verdict.replace(" ", "-"), _marked(each)) for each in advice.verdicts],
        pictures={name: _inline(figure) for name, figure in pictures.items()},
        tables={
            "verdicts": _table(advice.table),
            "chosen": _table(advice.chosen),
            "costs": _table(advice.costs),
            "failures": _table(advice.results.failures[["method", "stage", "split", "seed", "failure"]]),
        },
    )


def _marked(verdict: Verdict) -> Markup:
    """Returns the sentence with the variant in bold and the verdict in its colour."""
    before, word, after = verdict.sentence.removeprefix(verdict.variant).partition(verdict.verdict)
    return Markup("<b>{}</b>{}<em>{}</em>{}").format(verdict.variant, before, word, after)


def _table(table: pd.DataFrame) -> str:
    styler = table.rename_axis(index=None, columns=None).style
    styler.format(na_rep="", escape="html").format_index(escape="html").format_index(escape="html", axis="columns")
    styler.format(_number, subset=table.select_dtypes("number").columns.to_list(), na_rep="")
    html: str = styler.to_html(table_attributes='class="numbers"')
    return html


def _number(value: float) -> str:
    """Four significant digits, and all of large whole numbers."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", " ")


def _inline(figure: Figure) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
