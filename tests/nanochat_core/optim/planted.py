"""A planted scaling law, and runs that follow it, with noise or without."""

import numpy as np

from nanochat_core.optim.scaling_laws import JointLaw, Point

LAW = JointLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # Hoffmann et al. 2022
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def best_parameters(law: JointLaw, compute: float) -> float:
    """N of the least loss where C = 6·N·D: set the derivative of E + A/N^alpha + B·(6N/C)^beta to zero."""
    factor = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    return float(factor * (compute / 6) ** law.parameter_exponent)


def run_of(law: JointLaw, compute: float, parameters: float, *, noise: float = 0.0) -> Point:
    tokens = compute / 6 / parameters
    return Point(compute, parameters, tokens, law.loss(parameters, tokens) * float(np.exp(noise)))


def runs(law: JointLaw = LAW, *, depths: int = 6, spread: float = 10.0, noise: float = 0.0, seed: int = 0):
    """Return {budget: runs}, sizes from 1/spread to spread times the best; `noise` is the deviation of log L."""
    generator = np.random.default_rng(seed)
    sizes = np.geomspace(1 / spread, spread, depths)
    return {
        compute: [
            run_of(law, compute, size * best_parameters(law, compute), noise=noise * generator.standard_normal())
            for size in sizes
        ]
        for compute in BUDGETS
    }
