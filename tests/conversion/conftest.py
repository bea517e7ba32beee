import pytest

from keras_actlab.conversion import rewriting

# Tests of the comparison itself, and of models whose difference only the comparison detects.
COMPARED = {"test_matrix", "test_probe", "test_regressions", "test_rewriting"}


@pytest.fixture(autouse=True)
def _without_comparison(request, monkeypatch):
    """Skips the comparison of outputs, three calls of each model, where a test compares them itself."""
    if request.node.path.stem not in COMPARED:
        monkeypatch.setattr(rewriting, "_compare", lambda *arguments: (None, []))
