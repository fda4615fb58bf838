"""Properties that hold for any input: the same examples each time, fifty times as many under ``make test-slow``."""

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from cmae_mm.errors import UserError

MORE = 50  # times as many examples in the slow campaign


def fuzz(strategy, examples, *seeds):
    """Make an ordinary and a slow test of a property; ``seeds`` are inputs that failed once, tried every time."""

    def decorate(prop):
        def build(count):
            def test(case):
                prop(case)

            test.__name__ = test.__qualname__ = prop.__name__
            made = given(case=strategy)(test)
            for seed in seeds:
                made = example(case=seed)(made)
            return settings(
                max_examples=count,
                derandomize=True,
                deadline=None,
                database=None,
                phases=(Phase.explicit, Phase.generate, Phase.shrink),  # explaining traces every line
                suppress_health_check=list(HealthCheck),
            )(made)

        ordinary, slow = build(examples), build(examples * MORE)

        @pytest.mark.parametrize("campaign", ["ordinary", pytest.param("slow", marks=pytest.mark.slow)])
        def test_property(campaign):
            (slow if campaign == "slow" else ordinary)()

        test_property.__doc__ = prop.__doc__
        return test_property

    return decorate


def survives(call, *arguments, refusal=UserError, **words):
    """The result, or None where the input was refused in one printable sentence."""
    said = ""
    try:
        return call(*arguments, **words)
    except refusal as error:
        said = str(error)
    assert said
    assert len(said) < 2100
    assert said.isprintable() or refusal is not UserError
    return None
