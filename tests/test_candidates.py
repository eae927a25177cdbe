"""Which of two preprocessors a fit keeps."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import quick
from scipy import stats

from siflow_sk._training import Trainer, _plan
from siflow_sk.preprocessing import Gaussianize, Whiten
from siflow_sk.torus._parts import Angles
from siflow_sk.velocities import MLP


def candidate(score, n_valid=30, values=None, weight=None, copula=None):
    """A trainer with this score and these log-densities of validation rows, and its preprocessor."""
    weight = torch.full((n_valid,), 1 / n_valid, dtype=torch.float64) if weight is None else weight
    trainer = SimpleNamespace(
        best_score=score,
        validation=SimpleNamespace(n_rows=n_valid),
        regressed_log_density=lambda: values,
        data=SimpleNamespace(weight_valid=weight),
    )
    return trainer, SimpleNamespace(**({} if copula is None else {"copula_score_": copula}))


@pytest.mark.parametrize(
    ("n_valid", "lead", "copula", "first"),
    [
        (30, 0.3, -0.5, True),  # 30 rows against 15
        (30, 0.3, -0.7, False),
        (300, 0.3, -0.7, True),
        (30, -0.3, 0.7, True),
        (30, 0.0, -math.inf, False),
        (30, 0.1, None, True),  # preprocessors without a copula
    ],
)
def test_the_copula_counts_for_fifteen_validation_rows(n_valid, lead, copula, first):
    pairs = [
        candidate(2.0 + lead, n_valid, copula=None if copula is None else 4.0 + copula),
        candidate(2.0, n_valid, copula=None if copula is None else 4.0),
    ]
    assert (max(pairs, key=_plan._score) is pairs[0]) == first


@pytest.mark.parametrize("share", [0.5, 0.99, 1.01, 2.0])
def test_close_is_within_three_standard_errors(share):
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.dirichlet(np.ones(40)))
    noise = torch.tensor(rng.standard_t(3, 40))
    noise = noise - weight @ noise
    common = torch.tensor(10.0 * rng.standard_normal(40))  # of both: only the difference counts
    error = float(np.sqrt(np.sum(weight.numpy() ** 2 * noise.numpy() ** 2)))
    for sign in (1.0, -1.0):
        ahead = common + noise + sign * 3.0 * share * error
        pairs = [candidate(0.0, 40, ahead, weight), candidate(0.1, 40, common, weight)]
        assert _plan._are_close(pairs) == (share < 1.0)
    assert not _plan._are_close(pairs[:1])


def test_where_nothing_can_be_told_they_are_close():
    values = torch.full((30,), math.nan, dtype=torch.float64)
    assert _plan._are_close([candidate(0.0, values=values), candidate(0.0, values=values)])


@pytest.fixture
def polished(monkeypatch):
    """The trainers that were polished, in order, and whether each had a kernel density."""
    found, polish = [], Trainer.polish
    monkeypatch.setattr(Trainer, "polish", lambda self: found.append(self) or polish(self))
    return found


def several(**parameters):
    recipe = {"velocity": MLP(width=8, time_width=8), "max_iter": 30, "polish": 20, "random_state": 0}
    return quick(**{"n_networks": 2, **recipe, **parameters})


def test_of_close_candidates_both_are_polished_before_one_is_kept(polished):
    X = np.random.default_rng(0).gamma(3.0, size=(200, 2))
    flow = several().fit(X)
    assert len(set(polished)) == 2
    assert all(trainer.history.polish_loss for trainer in polished)
    kept = next(trainer for trainer in polished if trainer.best_score == flow.best_validation_score_)
    (other,) = set(polished) - {kept}
    fitted = {}  # with and without kernels, each alone
    for density in (True, False):
        part = Gaussianize(density=density)
        alone = several(preprocessor=part, n_networks=1).fit(X)
        fitted[density] = alone.preprocessor_.copula_score_
    lead = kept.best_score - other.best_score
    density = flow.preprocessor_.density_
    assert lead + 15 / 20 * (fitted[density] - fitted[not density]) > 0.0
    polished.clear()
    several(n_networks=1).fit(X)
    assert len(set(polished)) == 1


@pytest.mark.parametrize(("n", "both"), [(1000, 2), (1001, 1)])
def test_of_more_rows_the_first_stage_decides(n, both, polished, monkeypatch):
    monkeypatch.setattr(_plan, "_are_close", lambda trained: True)
    several(max_iter=5, polish=5).fit(np.random.default_rng(0).gamma(3.0, size=(n, 2)))
    assert len(set(polished)) == both


def test_a_candidate_far_behind_is_not_polished(polished, monkeypatch):
    """Two far clusters in each column: without kernel marginals nothing is won soon."""
    trained, regress = [], Trainer.regress
    monkeypatch.setattr(Trainer, "regress", lambda *args: trained.append(args[0]) or regress(*args))
    rng = np.random.default_rng(0)
    X = np.sign(rng.normal(size=(400, 2))) + 0.01 * rng.normal(size=(400, 2))
    flow = several().fit(X)
    assert flow.preprocessor_.density_
    assert len(set(polished)) == 1
    assert [len(trainer.history.loss) for trainer in trained] == [30, 30]  # nor given up before


def test_the_kept_candidate_is_the_better_one_after_the_polish(monkeypatch):
    """Ahead on the quadratic loss, behind in the end."""
    score = Trainer._score

    def turned(self):
        kernels = self.data.x is trainers[0].data.x
        return score(self) + (0.0 if self.standing.stage == "quadratic" or kernels else 50.0)

    trainers, init = [], Trainer.__init__

    def noted(self, *args):
        trainers.append(self)
        init(self, *args)

    monkeypatch.setattr(Trainer, "__init__", noted)
    monkeypatch.setattr(Trainer, "_score", turned)
    monkeypatch.setattr(_plan, "_are_close", lambda trained: True)
    rng = np.random.default_rng(0)
    X = np.sign(rng.normal(size=(200, 2))) + 0.1 * rng.normal(size=(200, 2))
    assert not several().fit(X).preprocessor_.density_
    assert several(polish=0).fit(X).preprocessor_.density_


def test_the_score_of_a_copula_without_kernels_is_scipys():
    x = np.random.default_rng(0).gamma(3.0, size=300)
    found = Gaussianize(density=False).fit(torch.tensor(x)[:, None], torch.full((300,), 1 / 300).double())
    standardised = (x - x.mean()) / x.std()
    power = stats.yeojohnson_normmax(standardised)
    # SciPy's leaves out the exponent, a half on average, and the scale of the column
    wanted = stats.yeojohnson_llf(power, standardised) / 300 - 0.5 - math.log(x.std())
    assert found.copula_score_ == pytest.approx(wanted, abs=1e-6)


def test_the_score_of_a_copula_leaves_each_row_out():
    """One column of two humps: the best that SciPy's kernel densities without the row, and tails, can do."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(-3.0, 0.5, 100), rng.normal(3.0, 0.5, 100)])
    part = Gaussianize(density=True).fit(torch.tensor(x)[:, None], torch.full((200,), 1 / 200).double())
    tails, share = stats.t(3, x.mean(), x.std()).pdf(x), 1.0 / math.sqrt(200)
    kernels = [
        np.array([stats.gaussian_kde(np.delete(x, i), width)(x[i])[0] for i in range(200)])
        for width in (0.05, 0.06, 0.07, 0.085, 0.1, 0.12)
    ]
    left_out = [np.log((1.0 - share) * kernel + share * tails).mean() for kernel in kernels]
    found = part.copula_score_ - 0.5 * math.log(2.0 * math.pi)
    z, log_det = part.forward(torch.tensor(x)[:, None])
    seen = float((log_det + torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0])).mean())
    assert found == pytest.approx(max(left_out), abs=0.01)
    assert seen > max(left_out) + 0.03


def test_beside_angles_the_copula_is_that_of_the_rest():
    rng = np.random.default_rng(2)
    x, weight = torch.tensor(rng.gamma(2.0, size=(100, 2))), torch.full((100,), 0.01).double()
    part = Angles(Gaussianize(density=False), {0: (0.0, 1.0)}).fit(x, weight)
    assert part.copula_score_ == Gaussianize(density=False).fit(x[:, 1:], weight).copula_score_
    assert Angles(Whiten(), {0: (0.0, 1.0)}).fit(x, weight).copula_score_ == 0.0
