import base64
import re

import pytest

from keras_actlab.advice.report import html
from tests.advice.answers import BASE, BETTER, answer, example

pytestmark = pytest.mark.one_backend


def test_names_are_escaped_in_the_report():
    text = html(answer({"as is": BASE, "<i>mine</i>": BETTER}))
    assert "<i>" not in text
    assert "small <b>" not in text
    assert "<b>&lt;i&gt;mine&lt;/i&gt;</b> is <em>better</em>" in text


def test_pictures_are_within_the_page():
    text = html(example())
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert len(pictures) == text.count("<img") == 2
    assert all(b"<svg" in base64.b64decode(picture) for picture in pictures)
    assert not re.search("https?://|<script|<link|@import", text)


@pytest.mark.parametrize("verdict", ["better", "cannot-tell", "changes-nothing"])
def test_each_verdict_has_its_mark(verdict):
    assert html(example()).count(f'<li class="{verdict}">') == 1
