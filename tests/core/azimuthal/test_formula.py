"""Formulas of the variance: NumPy's numbers, and nothing that could do harm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ronda.core.azimuthal.formula import MAX_LENGTH, Formula

COUNTS = np.array([[0, 1, 7], [100, 2**31 - 1, 3]])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("5*I+8", lambda i: 5 * i + 8),
        (" I ", lambda i: i),
        ("-(-I)**2/4", lambda i: -((-i) ** 2) / 4),
        ("max(I, 1) + min(2, I)", lambda i: np.maximum(i, 1) + np.minimum(2, i)),
        ("sqrt(abs(3-I)) + exp(-I)", lambda i: np.sqrt(np.abs(3 - i)) + np.exp(-i)),
        ("log(I+1)*1e-3", lambda i: np.log(i + 1) * 1e-3),
        ("4", lambda i: np.full(i.shape, 4.0)),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, np.float64])
def test_formula_is_what_it_says(text, same, kind):
    counts = COUNTS.clip(0, 100).astype(kind)
    variance = Formula(text)(counts)
    assert variance.dtype == np.float64 and variance.shape == counts.shape
    np.testing.assert_allclose(variance, same(counts.astype(float)))


def test_integers_do_not_wrap():
    assert Formula("I*I")(np.array([2**31 - 1], np.int32))[0] == pytest.approx((2.0**31 - 1) ** 2)
    assert Formula("-I")(np.array([200], np.uint8))[0] == -200


def test_division_by_zero_warns_nobody():
    assert np.isinf(Formula("1/I")(np.zeros(3))).all()
    assert np.isnan(Formula("log(-I)")(np.ones(3))).all()
    assert np.isinf(Formula("9**9**9**9")(np.ones(1))).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I +",
        "__import__('os').system('true')",
        "I.__class__",
        "open('x')",
        "I[0]",
        "lambda: I",
        "[I]",
        "i + 1",
        "'I'",
        "I if I else 1",
        "I and 1",
        "I < 3",
        "sqrt(I, 2)",
        "min(I)",
        "sqrt(x=I)",
        "max(*I)",
        "True",
        "1j",
        "1e999",
        "9" * 150 + "9" * 49 + "0" + "0",
        "(" * 90 + "I" + ")" * 90 + "+1" * 30,
        "-" * 50 + "I",
        "I;I",
        "I\x00",
        "~I",
        "I//2",
        "I@I",
        "(x := I)",
        f"{'I+' * MAX_LENGTH}I",
    ],
)
def test_everything_else_is_refused_in_a_sentence(text):
    with pytest.raises(ValueError, match="is no formula of the variance: ") as caught:
        Formula(text)
    assert repr(text.strip()[:10])[1:-1] in str(caught.value) and "\n" not in str(caught.value)


@given(st.text(alphabet="I0123456789.+-*/()e, sqrtlogabminx_'[]{}:=", max_size=40))
def test_no_text_raises_anything_but_a_refusal(text):
    try:
        formula = Formula(text)
    except ValueError:
        return
    assert formula(np.array([1.0, 2.0])).shape == (2,)


def test_formulas_of_one_text_are_one():
    assert Formula("I+1") == Formula(" I+1 ") != Formula("I+2")
    assert len({Formula("I+1"), Formula("I+1")}) == 1
    assert str(Formula("I+1")) == "I+1" and Formula("I") != "I"
