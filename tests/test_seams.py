"""What methods with stages, averaged weights or parameters of their own build upon."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._averaging import WeightAverage

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(
            nn.Linear(n_features, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.2),
            nn.Linear(8, n_classes),
        )


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.module.parameters()])


def test_weight_average_is_the_recursion_written_out():
    class Averaged(CrossEntropyClassifier):
        def _begin(self, run):
            (net,) = run.learners
            self.teacher = WeightAverage(net, run.generator)
            self.by_hand = weights(net).clone()

        def _train_epoch(self, run, epoch):
            (net,) = run.learners
            self.teacher.train()
            for batch, t in run.train_batches(epoch):
                run.step(self._loss(run, batch, t))
                self.teacher.update(0.9)
                self.by_hand = 0.9 * self.by_hand + 0.1 * weights(net)
                out = self.teacher(run.view(batch.x))
                assert not out.requires_grad

        def _finish(self, run):
            (net,) = run.learners
            self.apart = (weights(net) - weights(self.teacher)).abs().max()
            self.mean = (
                self.teacher.module[1].running_mean.clone(),
                net.module[1].running_mean.clone(),
            )
            self.teacher.replace()

    clf = Averaged(Network(WithNorm, max_epochs=3, batch_size=32), random_state=0).fit(X, Y)
    torch.testing.assert_close(weights(clf.teacher), clf.by_hand, rtol=1e-4, atol=1e-6)
    assert clf.apart > 1e-3
    ours, theirs = clf.mean
    assert (ours - theirs).abs().max() > 1e-4  # batch statistics of its own
    fitted = clf.nets_[0].module_
    for a, b in zip(fitted.parameters(), clf.teacher.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_restarted_network_repeats_its_first_steps():
    losses = []

    class Twice(CrossEntropyClassifier):
        def _begin(self, run):
            run.learners[0].keep_start()

        def _train_epoch(self, run, epoch):
            if epoch == 2:
                run.learners[0].restart()
            for batch, t in run.train_batches(epoch, order=torch.arange(90)):
                loss = self._loss(run, batch, t)
                losses.append(loss.item())
                run.step(loss)

        def _lr_factor(self, schedule, epoch, max_epochs):
            return schedule(epoch % 2, 2)

    clf = Twice(Network(max_epochs=4, batch_size=30), random_state=0).fit(X, Y)
    assert losses[:6] == losses[6:]
    assert [row["lr"] for row in clf.history_] == pytest.approx([0.05, 0.025, 0.05, 0.025])


def test_parameters_of_the_method_are_trained_clipped_and_scheduled_with_the_network():
    class WithBias(CrossEntropyClassifier):
        def _begin(self, run):
            self.bias = nn.Parameter(torch.zeros(run.n_classes))
            run.learners[0].add_parameters([self.bias], weight_decay=0)
            self.groups = run.learners[0].optimizers[0].param_groups

        def _loss(self, run, batch, t):
            logits = run.learners[0](run.view(batch.x)) + self.bias
            return nn.functional.cross_entropy(logits, batch.y)

    y = np.r_[np.zeros(60, int), np.arange(1, 3).repeat(15)]
    clf = WithBias(Network(max_epochs=4), random_state=0).fit(np.zeros((90, 2)), y)
    assert clf.bias[0] > clf.bias[1] + 0.1
    network, own = clf.groups
    assert own["weight_decay"] == 0
    assert network["weight_decay"] == 5e-4
    assert own["lr"] == network["lr"] == pytest.approx(0.05 * 0.1464, rel=1e-2)
    still = WithBias(Network(max_epochs=4, gradient_clip=1e-9), random_state=0)
    assert still.fit(np.zeros((90, 2)), y).bias.abs().max() < 1e-6
