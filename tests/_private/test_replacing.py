import pytest

from keras_actlab._private.replacing import replaced

pytestmark = pytest.mark.one_backend


class Base:
    def name(self):
        return "base"


class Derived(Base):
    pass


@pytest.mark.parametrize("owner", [Base, Derived])
def test_an_attribute_is_restored(owner):
    before = dict(vars(owner))
    with replaced(owner, "name", lambda self: "new"):
        assert Derived().name() == "new"
    assert Derived().name() == "base"
    assert dict(vars(owner)) == before
