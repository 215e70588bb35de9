"""The search finds plans that cost no more than the whole model, and of these the shortest that it saw."""

import numpy as np
import pytest

from jaxmodels.training.depth.plan_search import PlanSearch


def needed(wanted):
    """What plans cost where prompts need some of their blocks: 1, and 1 more for each that is skipped."""
    return lambda plans: 1.0 + np.where(plans == 0, wanted, 0).sum(1)


def test_blocks_that_a_prompt_does_not_need_are_skipped():
    wanted = np.asarray([[1, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 0, 1]])
    plans = PlanSearch(simulations=400).best(needed(wanted), 4, 5, seed=0)
    np.testing.assert_array_equal(plans, wanted)


def test_among_plans_of_as_many_passes_the_cheapest_is_taken():
    costs = {(1, 1, 1): 1.0, (0, 2, 1): 0.5, (2, 0, 1): 0.7}

    def cost(plans):
        return np.asarray([costs.get(tuple(plan), 9.0) for plan in plans.tolist()])

    assert PlanSearch(simulations=60).best(cost, 1, 3, seed=0).tolist() == [[0, 2, 1]]


def test_a_tolerance_lets_texts_cost_more():
    def cost(plans):
        return 1 + 0.01 * (plans == 0).sum(1)

    strict, lenient = (
        PlanSearch(simulations=120, tolerance=t).best(cost, 2, 4, seed=1) for t in (0.0, 0.025)
    )
    assert strict.tolist() == [[1] * 4] * 2
    assert ((lenient == 0).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("simulations", 0), ("exploration", -1), ("random", 1.5), ("tolerance", float("nan"))],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"PlanSearch: {field}"):
        PlanSearch(**{field: value})
