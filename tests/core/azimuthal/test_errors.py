"""Error models by name."""

import pytest
from pyFAI.containers import ErrorModel as Theirs
from ronda.core.azimuthal.errors import ErrorModel, parse_error_model
from ronda.core.azimuthal.formula import Formula


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("", ErrorModel.NONE),
        ("none", ErrorModel.NONE),
        ("no", ErrorModel.NONE),
        ("p", ErrorModel.POISSON),
        ("Poisson", ErrorModel.POISSON),
        ("poisson-c", ErrorModel.POISSON_CLASSIC),
        ("POISSON-CLASSIC", ErrorModel.POISSON_CLASSIC),
        ("azim", ErrorModel.AZIMUTHAL),
        (" hybrid ", ErrorModel.HYBRID),
        ("5*I+8", Formula("5*I+8")),
        ("I", Formula("I")),
    ],
)
def test_model_goes_by_the_beginning_of_its_name(text, model):
    assert parse_error_model(text) == model


@pytest.mark.parametrize("text", ["n", "no", "poisson", "azimuthal", "hyb", "a"])
def test_pyfai_understands_the_same(text):
    assert Theirs.parse(text).name.lower()[:2] == str(parse_error_model(text))[:2]


@pytest.mark.parametrize("text", ["gauss", "5*i+8", "8", "poissonian"])
def test_unknown_model_is_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match=r"no error model: it is one of none, poisson, .*hybrid"):
        parse_error_model(text)


def test_text_with_an_i_that_is_no_formula_says_so():
    with pytest.raises(ValueError, match="'Image' is no formula"):
        parse_error_model("Image")


def test_floor_is_that_of_the_model():
    floors = [model.floor for model in ErrorModel]
    assert floors == [None, 0.0, 1.0, None, 0.0]
