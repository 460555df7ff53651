import numpy as np, torch, time
from torch.nn import functional as F
from noisyfit import CrossEntropyClassifier, Network
from noisyfit.modules import MLP, PreActResNet18
from _timing import *
from skorch import NeuralNetClassifier

class Timed(CrossEntropyClassifier):
    def _train(self, run, valid):
        self.seconds_ = 0
        self.seconds_ = cpu_seconds(lambda: super(Timed, self)._train(run, valid))

def bare(make, x, y, epochs, bs):
    module = make().train()
    opt = torch.optim.SGD(module.parameters(), lr=.05, momentum=.9, weight_decay=5e-4)
    g = torch.Generator().manual_seed(0)
    def loop():
        for e in range(epochs):
            order = torch.randperm(len(x), generator=g)
            for s in range(0, len(x), bs):
                i = order[s:s+bs]
                opt.zero_grad()
                loss = F.cross_entropy(module(x.index_select(0, i)), y.index_select(0, i))
                loss.backward()
                opt.step()
    return cpu_seconds(loop)

def ours(net, X, y):
    return Timed(net, augment=None, random_state=0).fit(X, y).seconds_

torch.set_num_threads(1)
for d, hidden, n, ep in [(32,(128,128),6400,8),(4,(16,),6400,8)]:
    X = np.random.default_rng(0).normal(size=(n,d)).astype(np.float32)
    y = np.random.default_rng(0).integers(10, size=n)
    xt, yt = torch.from_numpy(X), torch.from_numpy(y)
    sides = {"bare": lambda: bare(lambda: MLP(d,10,hidden), xt, yt, ep, 64),
     "ours": lambda: ours(Network(MLP, module__hidden=hidden, max_epochs=ep), X, y)}
    r = compare(in_turns(sides, 11), "bare")
    for k,v in r.items(): print(k, v["seconds"]["median"]/(ep*n/64)*1e6, v["ratio"])
